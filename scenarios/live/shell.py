"""`wedge shell`: a target under the fault agent, its endpoints beside it, and single keys that break it."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.console import Console

from faults import FaultsError, catalogue
from scenarios.live import processes, shell_view
from scenarios.live.calls import ManualCalls
from scenarios.live.endpoints import Endpoints
from scenarios.live.injections import FaultManager
from scenarios.live.menu import MenuEntry, menu
from scenarios.live.screen import HUNG_UP, INTERRUPT, Exit, Screen, TerminalGone, single_keys
from scenarios.live.watch import DRAW_EVERY_S, probing
from scenarios.prober.handle import ProberHandle
from scenarios.prober.series import series_set
from scenarios.server.server import Server, serving
from scenarios.spec import LoadedTarget

_LOOK_EVERY_S = 0.4
_MANY_CALLS = 4
_SEED = 0
_SCROLLS = {"up": -1, "down": 1, "page up": -10, "page down": 10}


def _say(text: str) -> None:
    click.echo(f"wedge: {text}", err=True)


async def shell(target: LoadedTarget, console: Console, lease_s: float, leave: Exit) -> None:
    """Serve keys until `leave`. Raises `TargetFailed`, `ProberFailed`, `TerminalGone`."""
    restart = True
    async with ProberHandle() as prober:
        while restart:
            click.echo(f"wedge: starting {target.name} …", err=True)
            async with serving(target, _say) as server:
                described = series_set(target.spec, server.names, _SEED)
                async with probing(prober, described) as endpoints:
                    session = Session(server, endpoints, prober, lease_s, leave)
                    restart = await session.run(console)
                await prober.pause()


class Session:
    """One start of the target, from ready to `q` or `n`."""

    def __init__(
        self, server: Server, endpoints: Endpoints, prober: ProberHandle, lease_s: float, leave: Exit
    ) -> None:
        self._server, self._endpoints, self._prober, self._leave = server, endpoints, prober, leave
        self._faults = FaultManager(server.controller, lease_s)
        self._calls = ManualCalls(server.target.spec, server.caller)
        self._entries = {entry.key: entry for entry in menu(catalogue(), server.target.spec)}
        self._background = BackgroundTasks()
        self._rows: tuple[processes.ProcessRow, ...] = ()
        self._chosen: processes.ProcessRef | None = None
        self._message = ""
        self._question: tuple[shell_view.Question, str, Callable[[int], None]] | None = None
        self._page: Callable[[], list[Any]] | None = None
        self._first = 0
        self._last_choice: dict[str, int] = {}
        self._restart = False
        self._screen: Screen | None = None

    async def run(self, console: Console) -> bool:
        """Show the screen and serve keys; returns whether to restart the target. Releases everything at the
        end."""
        try:
            self._rows = await processes.read_processes(self._server)
            self._choose(last=True)
            self._background.begin(self._look())
            with Screen(console) as screen, single_keys(sys.stdin.fileno(), self.press, self._leave):
                self._screen = screen
                with _warnings(self._say):
                    await self._draw_on()
        finally:
            await self._faults.release_all()
            await self._background.end()
            with suppress(OSError):  # nobody may be left to be told
                name = self._server.target.name
                click.echo(f"wedge: everything is released; ending {name} …", err=True)
        return self._restart

    def press(self, key: str) -> None:
        """Carry out a key, and show the effect at once."""
        if key in (INTERRUPT, "q"):
            self._say("leaving: everything is released and the target ended")
            self._leave(0)
        elif self._page is not None:
            self._turn(key)
        elif self._question is not None:
            self._answered(key)
        elif (entry := self._entries.get(key)) is not None:
            self._fault(entry)
        elif (command := self._commands().get(key)) is not None:
            command()
        elif key.isprintable() and key not in _SCROLLS:
            self._say(f"{key} is no key here; ? shows them all")
        try:
            self._draw()
        except TerminalGone:
            self._leave(HUNG_UP)

    def _commands(self) -> dict[str, Callable[[], None]]:
        return {
            "c": lambda: self._call("c", 1),
            "C": lambda: self._call("C", _MANY_CALLS),
            "n": self._start_anew,
            "p": self._choose,
            "r": lambda: self._background.begin(self._release_all()),
            "w": lambda: self._show(lambda: shell_view.where(self._state())),
            "?": lambda: self._show(lambda: shell_view.help_page(tuple(self._entries.values()))),
        }

    async def _draw_on(self) -> None:
        drawn_s = -math.inf
        while not self._restart:
            await self._prober.news()
            self._background.check()
            if self._endpoints.now_s - drawn_s >= DRAW_EVERY_S:
                drawn_s = self._endpoints.now_s
                self._draw()

    async def _look(self) -> None:
        while True:
            self._rows = await processes.read_processes(self._server)
            if self._chosen not in processes.process_refs(self._rows):
                self._choose(last=True, quietly=True)
            try:
                await self._faults.refresh()
            except FaultsError as error:
                self._say(str(error))
            await asyncio.sleep(_LOOK_EVERY_S)  # nothing tells of a process that was started or stopped

    def _choose(self, *, last: bool = False, quietly: bool = False) -> None:
        """Choose the next process (or the last). A process that is being restarted stays chosen if there is
        no other.
        """
        there = processes.process_refs(self._rows)
        if not there:
            return
        at = there.index(self._chosen) + 1 if self._chosen in there else 0
        self._chosen = there[-1] if last else there[at % len(there)]
        if not quietly and not last:
            self._say(f"faults go to {self._chosen}" + ("" if len(there) > 1 else ", the only process"))

    def _fault(self, entry: MenuEntry) -> None:
        if not entry.sites:
            return self._toggle(entry, None)
        sites = entry.sites
        title = f"{entry.word}, at which site?"
        self._ask(entry.key, title, sites, lambda i: self._toggle(entry, sites[i]))

    def _toggle(self, entry: MenuEntry, site: str | None) -> None:
        if self._chosen is None:
            return self._say("there is no process with an agent to break; n starts the target anew")
        settings = entry.at(site)
        if active := self._faults.same(entry.fault.name, self._chosen, settings):
            self._begin(self._faults.release(active), f"{entry.fault.name} is released")
        else:
            self._say(f"arming {entry.fault.name} in {self._chosen} …")
            arming = self._arm(entry.fault.name, self._chosen, settings)
            self._begin(arming, f"{entry.fault.name} is armed in {self._chosen}")
        return None

    async def _arm(self, fault: str, place: processes.ProcessRef, settings: dict[str, Any]) -> None:
        await self._faults.arm(fault, place, settings)

    async def _release_all(self) -> None:
        count = len(self._faults.armed())
        await self._faults.release_all()
        self._say(f"{count} released" if count else "nothing was armed")

    def _call(self, key: str, count: int) -> None:
        names = self._calls.names
        if not names:
            return self._say("the target file has no [[call]] to make")

        def make(i: int) -> None:
            for _ in range(count):
                self._background.begin(self._calls.make(names[i]))
            self._say(f"calling {names[i]}" + (f", {count} times" if count > 1 else ""))

        return self._ask(key, "call which?", names, make)

    def _start_anew(self) -> None:
        self._say(f"starting {self._server.target.name} anew …")
        self._restart = True

    def _begin(self, work: Coroutine[Any, Any, None], done: str) -> None:
        async def told() -> None:
            try:
                await work
                self._say(done)
            except FaultsError as error:
                self._say(str(error))

        self._background.begin(told())

    def _ask(self, key: str, title: str, options: tuple[str, ...], choose: Callable[[int], None]) -> None:
        """Ask which option, unless there is only one. The same key again repeats the last choice."""
        if len(options) == 1:
            return choose(0)
        again = options[self._last_choice.get(key, 0)]
        question = shell_view.Question(f"{title} ({key}: {again})", options)
        self._question = (question, key, choose)
        return None

    def _answered(self, key: str) -> None:
        assert self._question is not None
        (question, asked_by, choose), self._question = self._question, None
        if key == asked_by:
            choose(self._last_choice.get(key, 0))
        elif key.isdigit() and 0 < int(key) <= len(question.options):
            self._last_choice[asked_by] = int(key) - 1
            choose(int(key) - 1)
        else:
            self._say("nothing was chosen")

    def _show(self, lines: Callable[[], list[Any]]) -> None:
        self._page, self._first = lines, 0

    def _turn(self, key: str) -> None:
        if key in _SCROLLS and self._page is not None:
            self._first = max(0, self._first + _SCROLLS[key])
        else:
            self._page = None

    def _say(self, message: str) -> None:
        self._message = message

    def _draw(self) -> None:
        screen = self._screen
        if screen is None:
            return
        if self._page is not None:
            screen.draw(shell_view.page(self._page(), self._first, screen.width, screen.height))
        else:
            screen.draw(shell_view.overview(self._state(), screen.width, screen.height))

    def _state(self) -> shell_view.ShellState:
        return shell_view.ShellState(
            title=self._server.target.name,
            ended=self._ended(),
            endpoints=self._endpoints,
            rows=self._rows,
            place=self._chosen,
            armed=self._faults.armed(),
            over=self._faults.over(),
            calls=self._calls.tallies(),
            entries=tuple(self._entries.values()),
            message=self._message,
            question=self._question[0] if self._question is not None else None,
        )

    def _ended(self) -> str | None:
        code = self._server.launched.returncode
        return None if code is None else f"ended with exit code {code}; n starts it anew"


@contextmanager
def _warnings(say: Callable[[str], None]) -> Iterator[None]:
    """Show log messages in the screen's message line instead of writing over the screen."""

    class MessageHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    handler = MessageHandler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class BackgroundTasks:
    """Background work that a key began; its errors are raised by `check`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work that nobody waits for."""
        self._tasks.add(asyncio.create_task(work))

    def check(self) -> None:
        """Raises what any work that has ended raised."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            if not task.cancelled():
                task.result()

    async def end(self) -> None:
        """Cancel all work that is under way, and wait for its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
