"""The commands `wedge watch` and `wedge shell`: their options and exit codes."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import click
from rich.console import Console

from faults import DEFAULT_LEASE_S, LEASE_LIMIT_S, LeaseTooLong
from faults.cli import seconds
from scenarios.errors import CouldNotRun
from scenarios.live.arguments import WatchRequest, watch_request
from scenarios.live.endpoints import Endpoints
from scenarios.live.screen import Exit, Screen, can_draw, run_until_exit
from scenarios.live.watch import JsonOutput, LineOutput, Output, ScreenOutput, summary, watch
from scenarios.server.needs import unmet_needs
from scenarios.spec import target_file
from scenarios.spec.target_file import find


@click.command("watch")
@click.option("--target", metavar="FILE|NAME", help="The endpoints of this target; it must run already.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE",
    help="A placeholder of the target that is known only once it runs: http=127.0.0.1:8000.",
)  # fmt: skip
@click.option("--http", "urls", multiple=True, metavar="URL", help="A URL that must answer 200.")
@click.option(
    "--grpc", "addresses", multiple=True, metavar="HOST:PORT[/SERVICE]", help="A gRPC health service."
)
@click.option("--tcp", "ports", multiple=True, metavar="HOST:PORT", help="A port that must accept.")
@click.option("--for", "for_s", type=seconds, metavar="10s", help="End after this time; without it, never.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per second, and no screen.")
def watch_command(
    target: str | None,
    settings: tuple[str, ...],
    urls: tuple[str, ...],
    addresses: tuple[str, ...],
    ports: tuple[str, ...],
    for_s: float | None,
    as_json: bool,
) -> None:
    """Watch the endpoints of a running server, live: lit or dark, how fast, and since when.

    Without a terminal it prints a line whenever an endpoint goes dark or comes back. Exits 0 when the time is
    up and on Ctrl-C, 2 when there is nothing to watch.
    """
    chosen = watch_request(target, urls, addresses, settings, ports)
    console = Console(highlight=False)
    if as_json or not can_draw(console):
        sys.exit(
            asyncio.run(
                run_until_exit(partial(_told, chosen, JsonOutput() if as_json else LineOutput(), for_s))
            )
        )
    sys.exit(_watched(chosen, console, for_s))


@click.command("shell")
@click.argument("target", metavar="TARGET")
@click.option(
    "--lease", "lease_s", type=seconds, default=DEFAULT_LEASE_S, show_default=True,
    help="How long a fault lasts at most (30s, 500ms, 2m).",
)  # fmt: skip
def shell_command(target: str, lease_s: float) -> None:
    """Start TARGET and break it by hand: single keys arm and release faults, next to the live endpoints.

    Shows the target's processes, which fault bites and the evidence, which calls are pending, and where
    threads are stuck. q and Ctrl-C release everything, end the target and exit 0; SIGTERM exits 143, a closed
    terminal 129.
    """
    # imported here: it loads clients and faults, which `watch` does not need
    from scenarios.live.shell import shell

    if not 0 < lease_s <= LEASE_LIMIT_S:
        raise LeaseTooLong(lease_s, LEASE_LIMIT_S)
    loaded = target_file.load(find(target))
    if reason := unmet_needs(loaded):
        raise CouldNotRun(f"{loaded.name} cannot be started here: it {reason}")
    console = Console(highlight=False)
    if not (sys.stdin.isatty() and can_draw(console)):
        raise CouldNotRun(
            "`wedge shell` needs a terminal; without one use `wedge exec`, `wedge arm` and `wedge watch`"
        )
    sys.exit(asyncio.run(run_until_exit(partial(shell, loaded, console, lease_s))))


async def _told(chosen: WatchRequest, tell: Output, for_s: float | None, leave: Exit) -> None:
    await watch(chosen, tell, for_s)


def _watched(chosen: WatchRequest, console: Console, for_s: float | None) -> int:
    seen: list[Endpoints] = []

    async def work(leave: Exit) -> None:
        with Screen(console) as screen:
            draw = ScreenOutput(screen, chosen.title)

            def tell(endpoints: Endpoints) -> None:
                seen[:] = [endpoints]
                draw(endpoints)

            await watch(chosen, tell, for_s)

    code = asyncio.run(run_until_exit(work))
    if seen and code == 0:
        summary(seen[0], console)
    return code
