"""A target's limit on open files: all its processes have it, and more than the machine allows is no error."""

from __future__ import annotations

import dataclasses
import resource

import msgspec
import pytest

from scenarios.server.server import serving
from scenarios.spec import target_file
from tests.scenarios.conftest import SERVERS

_, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)


def with_open_files(name: str, open_files: int | None) -> target_file.LoadedTarget:
    """One of the small servers, with this limit."""
    loaded = target_file.load(SERVERS / name)
    start = msgspec.structs.replace(loaded.start, open_files=open_files)
    return dataclasses.replace(loaded, spec=msgspec.structs.replace(loaded.spec, start=start))


async def limits(loaded: target_file.LoadedTarget) -> set[tuple[int, int]]:
    """The soft and hard limits of all processes of a start."""
    async with serving(loaded) as server:
        return {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in server.pids()}


async def test_every_process_of_a_target_has_its_limit_on_open_files() -> None:
    assert await limits(with_open_files("tiny-child.toml", 300)) == {(300, 300)}


async def test_the_twin_without_one_has_that_of_the_machine() -> None:
    assert {hard for _, hard in await limits(with_open_files("tiny-child.toml", None))} == {HARD}


@pytest.mark.skipif(
    HARD >= 1_000_000, reason="no limit that a target file may ask for is above the machine's"
)
async def test_a_limit_above_the_machine_s_is_the_machine_s() -> None:
    assert await limits(with_open_files("tiny-child.toml", 1_000_000)) == {(HARD, HARD)}


async def test_the_command_and_its_arguments_are_as_without_it() -> None:
    async with serving(with_open_files("counting.toml", 300)) as server:
        assert server.names["http"].startswith("127.0.0.1:")
        assert server.launched.pid in server.pids()
        assert len(server.pids()) == 1
