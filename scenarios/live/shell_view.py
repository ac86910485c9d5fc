"""What `wedge shell` shows: endpoints, processes, faults, calls, stuck threads, and the keys."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from faults import State, format_stacks
from scenarios.live import series_table
from scenarios.live.calls import CallTally
from scenarios.live.endpoints import Endpoints
from scenarios.live.injections import ActiveFault
from scenarios.live.menu import MenuEntry, bar
from scenarios.live.processes import ProcessRef, ProcessRow
from scenarios.live.watch import lateness
from scenarios.report.numbers import value

COMMANDS = (
    "c call", "C 4 calls", "p process", "r release all", "w where", "n anew", "? help", "q quit",
)  # fmt: skip
_HELP = {
    "c  C": "make one call of the target, or four at once; each is taken back when it was answered",
    "p": "choose the next process: faults go to the one with ▸",
    "r": "release every fault",
    "w": "where the threads stand, in full",
    "n": "end the target and start it anew",
    "?": "this page",
    "q": "quit: everything is released, the target ended",
}
_MARKS = {
    State.ARMED: ("◌", "yellow"),
    State.HIT: ("◌", "yellow"),
    State.BITING: ("◆", "bold red"),
    State.FAILED: ("✗", "red"),
}
_LABEL = 11
_STUCK_LINES, _EVIDENCE_LINES = 4, 2


@dataclass(frozen=True, slots=True)
class Question:
    """Something to choose by a digit; the first is chosen by the key that asked, too."""

    title: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShellState:
    """Everything that is shown, at one moment."""

    title: str
    ended: str | None
    endpoints: Endpoints
    rows: tuple[ProcessRow, ...]
    place: ProcessRef | None
    armed: tuple[ActiveFault, ...]
    over: tuple[ActiveFault, ...]
    calls: tuple[CallTally, ...]
    entries: tuple[MenuEntry, ...]
    message: str
    question: Question | None


def overview(shell: ShellState, width: int, height: int) -> list[Text]:
    """Everything that is known now, in just `height` lines."""
    above = [_title(shell), *series_table.rows(shell.endpoints, width), *lateness(shell.endpoints), Text()]
    below = [Text(), *_talk(shell, width), *_keys(shell, width)]
    sections = [
        _processes(shell, width),
        _faults(shell, width),
        _calls(shell),
        _stuck(shell, width),
    ]
    middle = _fitted(sections, height - len(above) - len(below))
    return [*above, *middle, *[Text()] * (height - len(above) - len(middle) - len(below)), *below]


def where(shell: ShellState) -> list[Text]:
    """The stacks in full, of every fault that holds threads up."""
    lines = []
    for active in shell.armed:
        for text in format_stacks(active.threads):
            lines.append(Text(f"{active.fault.id} {_what(active)}", style="bold"))
            lines += [*map(Text, text.expandtabs().splitlines()), Text()]
    return lines or [Text("no fault holds a thread up that could be looked at")]


def help_page(entries: Sequence[MenuEntry]) -> list[Text]:
    """Every key and what it does."""
    lines = [Text("keys that break, and give back when pressed again", style="bold")]
    lines += [_help(entry.key, f"{_named(entry)}: {entry.fault.summary}") for entry in entries]
    lines += [Text(), Text("the other keys", style="bold")]
    return [*lines, *(_help(key, words) for key, words in _HELP.items())]


def page(lines: Sequence[Text], first: int, width: int, height: int) -> list[Text]:
    """A page of a longer text, from its line `first` on, and how to go on."""
    room = height - 2
    wrapped = [part for line in lines for part in _wrapped(line, width)]
    first = max(0, min(first, len(wrapped) - room))
    shown = wrapped[first : first + room]
    more = f"{first + 1}-{first + len(shown)} of {len(wrapped)}: arrows and space move · " * (
        len(wrapped) > room
    )
    padding = [Text()] * (room - len(shown))
    return [*shown, *padding, Text(), Text(f"{more}any other key goes back", style="dim")]


def _wrapped(line: Text, width: int) -> list[Text]:
    parts = textwrap.wrap(line.plain, width, subsequent_indent=" " * 6, drop_whitespace=False) or [""]
    return [Text(part, style=line.style) for part in parts]


def _title(shell: ShellState) -> Text:
    text = Text(f"wedge shell · {shell.title}", style="bold")
    if shell.ended is not None:
        text.append(f" · {shell.ended}", style="bold red")
    return text


def _processes(shell: ShellState, width: int) -> list[Text]:
    lines = []
    for row in shell.rows:
        chosen = shell.place in row.refs
        names = ", ".join(row.names) or "-"
        text = Text(f"{'▸' if chosen else ' '} {names} {row.pid}", style="bold" if chosen else "")
        stopped = row.state[0] in "TtDZX"
        text.append(f"  {row.state}", style="bold red" if stopped else "not bold dim")
        text.append(f"  {row.threads} threads  {row.command}", style="not bold dim")
        if not row.agent:
            text.append("  (no agent)", style="yellow")
        lines.append(text)
    return _labelled("processes", lines or [Text("  none", style="red")])


def _faults(shell: ShellState, width: int) -> list[Text]:
    lines = []
    for active in reversed(shell.armed):
        status = active.status
        mark, style = _MARKS.get(status.state, ("◇", "dim"))
        bites = status.state is State.BITING
        state = "bites" if bites and active.proven else "not proven" if bites else status.state.value
        text = Text(f"{mark} {_what(active)} in {active.place}", style=style)
        text.append(f"  {state}", style=style)
        held = f", held {series_table.age(status.held_s)}" if status.held_s else ""
        inside = f"{status.hits} hit, {status.inside} inside{held}"
        text.append(f"  {status.lease_left_s:.0f} s left  {inside}", style="not bold default")
        lines.append(text)
        if active.proven or status.hits == 0:
            lines += [Text(f"    {found}", style="dim") for found in status.evidence[-_EVIDENCE_LINES:]]
    for active in reversed(shell.over):
        status = active.status
        held = f", held {series_table.age(status.held_s)}" if status.held_s else ""
        lines.append(Text(f"◇ {_what(active)}: {_over(active)}, {status.hits} hit{held}", style="dim"))
    return _labelled("faults", lines or [Text("  none is armed", style="dim")])


def _over(active: ActiveFault) -> str:
    state = active.status.state
    if active.gone:
        return "its process is gone"
    return {State.NEVER_HIT: "over, and never hit", State.EXPIRED: "its lease ran out"}.get(
        state, state.value
    )


def _calls(shell: ShellState) -> list[Text]:
    lines = []
    for tally in shell.calls:
        text = Text(f"  {tally.call}")
        if tally.pending:
            steps = ", ".join(step for step in tally.steps if step != tally.call)
            text.append(f"  ◌ {tally.pending} pending, the oldest for {series_table.age(tally.oldest_s)}",
                        style="bold yellow")  # fmt: skip
            text.append(f" in {steps}" if steps else "", style="yellow")
        if tally.answered:
            text.append(f"  ● {tally.answered} answered", style="green")
            text.append(f", the last in {series_table.latency(tally.last_s)}", style="dim")
        if tally.errors:
            text.append(f"  ✗ {tally.errors} in error: {tally.error}", style="red")
        lines.append(text)
    return _labelled("calls", lines or [Text("  none was made", style="dim")])


def _stuck(shell: ShellState, width: int) -> list[Text]:
    threads = list(dict.fromkeys(str(thread) for active in shell.armed for thread in active.stuck))
    if not threads:
        return []
    room = width - _LABEL
    lines = []
    for thread in threads:
        first, *rest = textwrap.wrap(thread, room - 2, subsequent_indent="    ") or [""]
        lines += [Text(f"  {first}"), *(Text(f"  {line}", style="dim") for line in rest[: _STUCK_LINES - 1])]
    return _labelled("stuck", lines)


def _talk(shell: ShellState, width: int) -> list[Text]:
    if shell.question is None:
        return [Text(shell.message, style="bold cyan")]
    options = [f"{i} {option}" for i, option in enumerate(shell.question.options, 1)]
    asked = f"{shell.question.title}  {'   '.join(options)}   (Esc: none)"
    return [Text(line, style="bold cyan") for line in textwrap.wrap(asked, width)]


def _keys(shell: ShellState, width: int) -> list[Text]:
    lines = [*_flowed(bar(shell.entries), width), *_flowed(COMMANDS, width)]
    return [_key_line(line) for line in lines]


def _flowed(words: Sequence[str], width: int) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    for word in words:
        if len("  ".join([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return [line for line in lines if line]


def _key_line(words: Sequence[str]) -> Text:
    text = Text()
    for word in words:
        key, _, does = word.partition(" ")
        text.append("  " if text.plain else "")
        text.append(key, style="bold")
        text.append(f" {does}", style="dim")
    return text


def _help(key: str, words: str) -> Text:
    return Text(f"  {key:5} {words}")


def _named(entry: MenuEntry) -> str:
    return " ".join([entry.fault.name, *(f"{name}={value(v)}" for name, v in entry.params.items())])


def _what(active: ActiveFault) -> str:
    settings = (value(v) if name == "site" else f"{name}={value(v)}" for name, v in active.settings.items())
    return " ".join([active.fault.name, *settings])


def _labelled(label: str, lines: Sequence[Text]) -> list[Text]:
    heads = (Text(head.ljust(_LABEL), style="dim") for head in (label, *[""] * len(lines)))
    return [Text.assemble(head, line) for head, line in zip(heads, lines, strict=False)]


def _fitted(sections: Sequence[Sequence[Text]], room: int) -> list[Text]:
    """As much of each section as there is room for: the longest give first."""
    kept = [list(section) for section in sections if section]
    while sum(map(len, kept)) > max(0, room):
        longest = max(kept, key=len)
        if len(longest) <= 1:
            break
        longest.pop()
    return [line for section in kept for line in section][: max(0, room)]
