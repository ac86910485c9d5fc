"""A running target: started under the controller's guard, made ready, with its clients beside it."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from faults import Controller, FaultsError, Launched, Selector
from scenarios.errors import CouldNotRun, ScenariosError, TargetEnded, TargetFailed
from scenarios.server.environment import Say, prepare_interpreter
from scenarios.server.resources import Holding, measure
from scenarios.spec import LoadedTarget
from scenarios.spec.placeholders import fill, free_ports
from scenarios.spec.target_file import check_filled, check_ports
from scenarios.traffic.caller import Caller
from scenarios.traffic.client import client_process

_LOG_LINES = 400
_LOOK_EVERY_S = 0.05
_SAID_CHARACTERS = 120
_END_SEEN_WITHIN_S = 0.2
_LEFT_SHOWN = 3

T = TypeVar("T")


class Server:
    """One start of a target. `names` are all placeholders; `before` what it held once it was warm."""

    def __init__(self, target: LoadedTarget, controller: Controller, launched: Launched) -> None:
        self.target = target
        self.controller = controller
        self.launched = launched
        self.names: dict[str, str] = {}
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self.before: Holding | None = None
        self.usable = True
        self._stopped = False
        self._ready_s: float | None = None
        self._waited_for = ""
        self.caller = Caller(target.spec, target.folder, self.names)
        self._matched: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        pattern = target.start.ready.line
        self._readers = [
            asyncio.create_task(self._read(stream, expected))
            for stream, expected in ((launched.stdout, pattern), (launched.stderr, pattern))
            if stream is not None
        ]

    def pids(self) -> tuple[int, ...]:
        """The target's live processes."""
        return tuple(self.launched.pids())

    async def matching(self, selector: str | Selector, *, within_s: float = 0.0) -> tuple[int, ...]:
        """The processes that match, waited for at most so long; none where none does. Those without an agent
        count only where none with one matches.
        """
        found = await self.controller.find_processes(selector, timeout_s=within_s, agents=False)
        return tuple(info.pid for info in found)

    async def having(self, site: object) -> Selector | None:
        """The processes that have imported the module of a site, which is given as in a fault's parameters;
        None, for the main process, where none has (yet), or where each has one of that name."""
        place = self.target.spec.sites.get(site, site) if isinstance(site, str) else ""
        module = place.partition(":")[0]
        if module in ("", "__main__"):
            return None
        wanted = Selector(imports=module)
        return wanted if await self.matching(wanted) else None

    def held(self) -> Holding:
        """What the target holds now, without the threads that its file ignores, and without the agents'."""
        agents = {info.pid: info.agent_fds for info in self.controller.processes()}
        return measure(self.pids(), self.target.spec.leaks.ignored_threads, agents)

    async def wait_ready(self) -> None:
        """Wait until it is ready, as the target file says. Raises `TargetFailed`."""
        start = self.target.start
        deadline_s = time.monotonic() + start.ready_within_s
        ended = asyncio.create_task(self.launched.wait())
        try:
            async with asyncio.timeout_at(deadline_s):
                if start.ready.line is not None:
                    either: set[asyncio.Future[Any]] = {self._matched, ended}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not self._matched.done():
                        raise await self._ended()
                    self.names.update(self._matched.result())
                if start.ready.url is not None:
                    await self._answers(fill(start.ready.url, self.names), ended)
            self._ready_s = time.monotonic()
        except TimeoutError:
            wanted = self._waited_for or f"a line like {start.ready.line}"
            raise TargetFailed(
                self.target.name,
                f"not ready within {start.ready_within_s:g} s: waited for {wanted}",
                await self._last_lines(),
            ) from None
        finally:
            ended.cancel()
            with suppress(asyncio.CancelledError):
                await ended

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work; it is cancelled when the server ends. Raises `TargetEnded`."""
        working = asyncio.create_task(work)
        ended = asyncio.create_task(self._wait_gone())
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and isinstance(working.exception(), ScenariosError):
                await asyncio.wait({ended}, timeout=_END_SEEN_WITHIN_S)  # the end may be the reason
            if ended.done():
                raise await self._ended()
            return await working
        finally:
            for task in (working, ended):
                task.cancel()
            await asyncio.gather(working, ended, return_exceptions=True)

    async def _wait_gone(self) -> None:
        """Wait until the command and everything that it left running have ended."""
        await self.launched.wait()
        while self.pids():  # noqa: ASYNC110  # there is no event for the end of another's child
            await asyncio.sleep(_LOOK_EVERY_S)

    @property
    def left_running(self) -> str:
        """The processes that run although the command has ended, in words; empty where it is not so."""
        if self.launched.returncode is None or not (left := self.pids()):
            return ""
        shown = ", ".join(f"{pid} ({command_of(pid)[:60]})" for pid in left[:_LEFT_SHOWN])
        return (
            f"left {len(left)} of its processes in the background: {shown}; start it in the foreground "
            "(without --daemon, --detach or &), so that it can be watched and ended"
        )

    async def _ended(self) -> TargetEnded:
        """How it ended."""
        code = self.launched.returncode
        if code is None:
            how = "is gone: the guard above it was killed"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        after_s = time.monotonic() - self._ready_s if self._ready_s is not None else None
        own = "by itself, " if code is not None and code >= 0 else ""
        when = "before ready" if after_s is None else f"{own}{after_s:.1f} s after it was ready"
        left = f" and {self.left_running}" if self.left_running else ""
        return TargetEnded(self.target.name, f"{how} {when}{left}", await self._last_lines())

    async def terminate_and_wait(self, within_s: float) -> int | None:
        """Ask it to end (SIGTERM) and wait; its exit code, or None when it has not ended in time."""
        self.usable = False
        if self.launched.returncode is None:
            os.kill(self.launched.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                return await self.launched.wait()
        except TimeoutError:
            return None

    async def stop(self) -> None:
        """End it: SIGTERM first, SIGKILL after the target's grace. Idempotent."""
        self.usable = False
        if self._stopped:
            return
        self._stopped = True
        await self.caller.close()
        await self.launched.terminate(self.target.start.stop_within_s)
        await asyncio.gather(*self._readers)

    async def _last_lines(self) -> deque[str]:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                if self.launched.returncode is not None:
                    await asyncio.gather(*map(asyncio.shield, self._readers))  # it may be in the pipe yet
        return self.log

    async def _answers(self, url: str, ended: asyncio.Task[Any]) -> None:
        import httpx  # not every target has such a URL, and it takes long to load

        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            while True:
                if ended.done():
                    raise await self._ended()
                try:
                    response = await http.get(url, timeout=2.0)
                    if response.status_code < 400:
                        return
                    said = f"answered {response.status_code} {response.text[:_SAID_CHARACTERS].strip()}"
                except httpx.HTTPError as error:
                    said = f"was not answered: {type(error).__name__}"
                self._waited_for = f"{url}, which at last {said}"
                await asyncio.sleep(_LOOK_EVERY_S)  # there is no event for a port that opens

    async def _read(self, stream: asyncio.StreamReader, pattern: str | None) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than any line that is awaited; the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self.log.append(text)
            if pattern is not None and not self._matched.done() and (found := re.search(pattern, text)):
                self._matched.set_result({k: v for k, v in found.groupdict().items() if v is not None})


@asynccontextmanager
async def serving(target: LoadedTarget, say: Say | None = None) -> AsyncIterator[Server]:
    """A target that is ready, with its clients, ended on the way out; `say` is called with each step when its
    environment has to be built first. Raises `TargetFailed`."""
    start = target.start
    placeholders = {"python": await prepare_interpreter(target, say), "here": str(target.path.parent)}
    check_ports(target)
    placeholders |= free_ports([start.command, start.env])
    async with AsyncExitStack() as stack:
        controller = await stack.enter_async_context(Controller(selectors(target), target.spec.sites))
        try:
            launched = await controller.launch(
                _limited(fill(start.command, placeholders), start.open_files),
                env=controller.environment({**os.environ, **fill(start.env, placeholders)}),
                cwd=(target.path.parent / fill(start.cwd, placeholders)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except (FaultsError, OSError) as error:
            raise TargetFailed(target.name, str(error)) from error
        server = Server(target, controller, launched)
        stack.push_async_callback(server.stop)
        server.names.update(placeholders)
        await server.wait_ready()
        check_filled(target, server.names)
        controller.name_processes(selectors(target, server.names))
        for client in (c for c in target.spec.client if c.when == "server"):
            running = client_process(controller, target, client, server.names)
            server.names.update((await stack.enter_async_context(running)).names)
        stack.push_async_callback(server.stop)  # before its clients: what they share is still mapped there
        yield server


def command_of(pid: int) -> str:
    """Its command line now, without the program's folder; it may have ended meanwhile."""
    try:
        program, *arguments = psutil.Process(pid).cmdline() or [psutil.Process(pid).name()]
    except psutil.Error:
        return "(ended)"
    return " ".join([Path(program).name, *arguments])


def selectors(target: LoadedTarget, names: Mapping[str, str] | None = None) -> dict[str, Selector]:
    """How the fault layer finds the processes that the target file names. `names` are the placeholders: a
    port is left open while they are not known. Raises `CouldNotRun` for one that is no number then.
    """
    return {
        name: Selector(
            cmdline=s.cmdline,
            imports=s.imports,
            parent=s.parent,
            main=None if s.main is None else bool(s.main),
            port=_port(name, s.port, names),
        )
        for name, s in target.spec.processes.items()
    }


def _port(process: str, port: int | str | None, names: Mapping[str, str] | None) -> int | None:
    if port is None or isinstance(port, int) or names is None:
        return port if isinstance(port, int) else None
    number = str(fill(port, names)).rpartition(":")[2]  # a ready line may give HOST:PORT
    if not number.isdigit():
        raise CouldNotRun(f"[processes] {process}: port = {port!r} is {number!r}, and no port")
    return int(number)


def _limited(command: Sequence[str], open_files: int | None) -> Sequence[str]:
    """The command with `open_files` as its soft and hard limit on open files, or a lower one if necessary."""
    if open_files is None:
        return command
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = open_files if hard == resource.RLIM_INFINITY else min(open_files, hard)
    return ("/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(most), *command)
