"""`wedge report` and `wedge compare`: stored reports, rendered and compared offline."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from scenarios.errors import CouldNotRun
from scenarios.judge import judge_report, revised_verdicts
from scenarios.record import Report, encode
from scenarios.report import compare
from scenarios.report.load import load
from scenarios.terminal.table import show

PASSED, FAILED = 0, 1
_WIDTH_WITHOUT_TERMINAL = 160

OUTPUT = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_Input = click.Path(path_type=Path)


@click.command("report")
@click.argument("file", type=_Input, metavar="FILE.json")
@click.option("--html", "html_file", type=OUTPUT, help="Write the HTML report; - for stdout.")
@click.option("--junit", "junit_file", type=OUTPUT, help="Write JUnit XML; - for stdout.")
@click.option("--md", "md_file", type=OUTPUT, help="Write the Markdown summary; - for stdout.")
@click.option("--json", "json_file", type=OUTPUT, help="Write the report as judged now; - for stdout.")
@click.option("--as-recorded", is_flag=True, help="Keep the recorded verdicts instead of judging again.")
@click.option("--exit-code", is_flag=True, help="Exit 1 when a verdict is not pass, as `wedge run` does.")
def report_command(
    file: Path,
    html_file: Path | None,
    junit_file: Path | None,
    md_file: Path | None,
    json_file: Path | None,
    as_recorded: bool,
    exit_code: bool,
) -> None:
    """Judge a stored report again and render it, offline.

    Without an output option it prints the final table of `wedge run`. Exits 0 when the report could be read
    and rendered, 2 when not.
    """
    recorded = load(file)
    judged = recorded if as_recorded else judge_report(recorded)
    if not write_reports(judged, html=html_file, junit=junit_file, md=md_file, json=json_file):
        show(judged, console())
    for change in revised_verdicts(recorded, judged):
        why = f": {change.why[0]}" if change.why else ""
        click.echo(f"judged again: {change.name} was {change.was} and is {change.now}{why}", err=True)
    sys.exit(FAILED if exit_code and not judged.suite.passed else PASSED)


@click.command("compare")
@click.argument("old", type=_Input, metavar="OLD.json")
@click.argument("new", type=_Input, metavar="NEW.json")
@click.option(
    "--noise",
    type=click.FloatRange(min=1.0),
    default=compare.NOISE,
    show_default=True,
    help="A faulted/baseline ratio up to this many times the old one is noise.",
)
@click.option(
    "--floor-ms",
    type=click.FloatRange(min=0.0),
    default=compare.FLOOR_MS,
    show_default=True,
    help="Fewer milliseconds than this are noise, whatever the ratio.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON (schema wedge-compare/1).")
def compare_command(old: Path, new: Path, noise: float, floor_ms: float, as_json: bool) -> None:
    """Show what changed from one run to another: verdicts, scenarios, latency under the fault.

    Exits 0 when nothing got worse, 1 on a regression, 2 when a report could not be read.
    """
    found = compare.compare(load(old), load(new), noise=noise, floor_ms=floor_ms)
    if as_json:
        click.echo(compare.encode(found), nl=False)
    else:
        click.echo("\n".join(compare.lines(found)))
    sys.exit(FAILED if found.regressed else PASSED)


def console(*, stderr: bool = False) -> Console:
    """A console for the terminal, or for 160 columns of plain text if there is no terminal."""
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = _WIDTH_WITHOUT_TERMINAL
    return made


def write_reports(found: Report, **files: Path | None) -> bool:
    """Write the report as `json`, `junit`, `html` or `md` to each file, or to stdout where that is `-`.

    Whether there was any to write. Raises `CouldNotRun`.
    """
    wanted = {form: path for form, path in files.items() if path is not None}
    for form, path in wanted.items():
        text = _rendered(found, form)
        if str(path) == "-":
            click.echo(text, nl=False)
            continue
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CouldNotRun(f"{path}: cannot be written: {error.strerror or error}") from error
    return bool(wanted)


def _rendered(found: Report, form: str) -> str:
    """What draws the page takes long to load, and is loaded when it is asked for."""
    if form == "html":
        from scenarios.report import html

        return html.render(found)
    if form == "junit":
        from scenarios.report import junit

        return junit.render(found)
    if form == "md":
        from scenarios.report import markdown

        return markdown.render(found)
    return encode(found).decode()
