"""A fault counts as biting for what can be seen from outside, not for what it says about itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import ArmFailed, BrokenPlugin, Controller, NeverHit, State, catalogue, fault_info
from faults.catalogue import OLD_PLUGIN_GROUP, PLUGIN_GROUP, definitions
from faults.evidence import PROVERS
from tests.faults.bench import LaunchedTarget

LIAR = '''"""Says that it bites, and does nothing.

Does: nothing. A user sees: nothing. Cannot: anything.
"""
NAME = "liar.{proof}"
PROOF = "{proof}"
RUNS = "{runs}"
PARAMETERS = {{
    "leave": {{"type": "int", "default": 0, "help": "as fd.exhaust has it"}},
    "size": {{"type": "bytes", "default": 1 << 40, "help": "as memory.pressure has it"}},
}}


def arm(fault):
    def lie():
        fault.undo(lambda: fault.leave(True))
        fault.count_call()
        fault.enter(True)
    return lie
'''
IDLE = '''"""Idles."""
NAME = "idle.away"
PROOF = "hit"


def arm(fault):
    return None
'''
SLUGGISH = '''"""Takes its time to make a file, and to remove it; cannot where there is no such directory."""
import os, time
NAME = "sluggish.file"
PROOF = "hit"
RUNS = "outside"
PARAMETERS = {"path": {"type": "str", "required": True, "help": "the file"}}


def arm(fault):
    def remove():
        time.sleep(0.3)
        os.unlink(fault.params["path"])

    def make():
        fault.count_call()
        time.sleep(0.3)
        open(fault.params["path"], "x").close()
        fault.undo(remove)

    return make
'''
BESIDE = '''"""Acts in the target, and makes a file in the sidecar, which has the same page."""
import os
NAME = "beside.file"
PROOF = "hit"
PARAMETERS = {"path": {"type": "str", "required": True, "help": "the file"}}


def arm(fault):
    return fault.count_call


def arm_sidecar(fault):
    with open(fault.params["path"], "x") as made:
        made.write(" ".join(str(pid) for pid, _ in fault.targets))
    fault.undo(lambda: os.unlink(fault.params["path"]))
    fault.undo(fault.set_released)
'''
SEEN_FROM_OUTSIDE = sorted(set(PROVERS) - {"answer", "hit", "inside"})


class Plugins:
    """Installs fault files as plugins, the way a package would."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.modules: list[str] = []

    def install(self, module: str, source: str, *groups: str) -> None:
        """A distribution with one module, named in an entry point of each of those groups."""
        self.modules.append(module)
        (self._directory / f"{module}.py").write_text(source)
        info = self._directory / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        points = (f"[{group}]\n{module} = {module}\n" for group in groups or (PLUGIN_GROUP,))
        (info / "entry_points.txt").write_text("".join(points))
        definitions.cache_clear()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """Plugins for one test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = Plugins(tmp_path)
    yield installed
    for module in installed.modules:
        sys.modules.pop(module, None)
    definitions.cache_clear()


@pytest.mark.parametrize("proof", SEEN_FROM_OUTSIDE)
async def test_a_fault_that_only_says_that_it_bites_is_never_hit(
    controller: Controller, target: LaunchedTarget, plugins: Plugins, proof: str
) -> None:
    outside = proof in ("stopped", "gone", "starved")
    plugins.install(f"liar_{proof}", LIAR.format(proof=proof, runs="outside" if outside else "inside"))
    async with controller.arm(f"liar.{proof}", process="bench") as fault:
        with pytest.raises(NeverHit):
            await fault.wait_biting(timeout_s=0.5)
        assert fault.status().state is State.BITING  # that is what it says, and why nobody asks it
        await target.ticks()


async def test_a_fault_that_does_nothing_at_all_is_never_hit(
    controller: Controller, target: LaunchedTarget, plugins: Plugins
) -> None:
    plugins.install("idle_away", IDLE)
    async with controller.arm("idle.away", process="bench") as fault:
        with pytest.raises(NeverHit, match="0 of 0"):
            await fault.wait_biting(timeout_s=0.2)
    assert fault.status().state is State.NEVER_HIT


async def test_what_is_done_from_outside_is_done_when_arm_returns_and_undone_when_release_does(
    controller: Controller, target: LaunchedTarget, plugins: Plugins, tmp_path: Path
) -> None:
    plugins.install("sluggish_file", SLUGGISH)
    made = tmp_path / "made"
    fault = controller.arm("sluggish.file", process="bench", params={"path": str(made)})
    await fault.arm()
    assert made.exists()
    await fault.release()
    assert not made.exists()


async def test_what_the_sidecar_does_beside_the_target_comes_and_goes_with_the_fault(
    controller: Controller, target: LaunchedTarget, plugins: Plugins, tmp_path: Path
) -> None:
    plugins.install("beside_file", BESIDE)
    made = tmp_path / "made"
    fault = controller.arm("beside.file", process="bench", params={"path": str(made)})
    for _ in range(2):
        async with fault:
            assert made.read_text() == str(target.pid)
            await fault.wait_biting(timeout_s=5)
        assert not made.exists()
        fault = controller.arm("beside.file", process="bench", params={"path": str(made)})


@pytest.mark.parametrize("groups", [(OLD_PLUGIN_GROUP,), (OLD_PLUGIN_GROUP, PLUGIN_GROUP)])
async def test_a_plugin_that_was_written_for_the_former_names_works(
    controller: Controller, target: LaunchedTarget, plugins: Plugins, tmp_path: Path, groups: tuple[str, ...]
) -> None:
    source = BESIDE.replace("arm_sidecar", "arm_beside").replace("count_call", "takes")
    plugins.install("beside_file", source.replace("set_released", "let_go"), *groups)
    made = tmp_path / "made"
    async with controller.arm("beside.file", process="bench", params={"path": str(made)}) as fault:
        await fault.biting(timeout_s=5)
        assert made.exists()
    assert not made.exists()


async def test_a_fault_says_what_a_judge_has_to_know_of_it(plugins: Plugins) -> None:
    known = "IS_CONTROL = TAKES_CORES = True\nNEEDS = ('gpu',)\nSITE_KIND = 'class'\n"
    site = "PARAMETERS = {'site': {'type': 'site', 'required': True, 'help': 'the class'}}\n"
    plugins.install("idle_away", IDLE + known + site)
    info = fault_info("idle.away")
    assert (info.is_control, info.takes_cores, info.needs, info.site_kind) == (True, True, ("gpu",), "class")
    assert [fault.name for fault in catalogue() if fault.is_control] == [
        "call.count", "idle.away", "net.relay", "noop",
    ]  # fmt: skip
    assert {fault.site_kind for fault in catalogue() if fault.name.startswith("call.")} == {"function"}
    assert fault_info("gil.hold").site_kind is None


async def test_what_cannot_be_done_from_outside_is_refused_by_arm(
    controller: Controller, target: LaunchedTarget, plugins: Plugins, tmp_path: Path
) -> None:
    plugins.install("sluggish_file", SLUGGISH)
    fault = controller.arm("sluggish.file", process="bench", params={"path": str(tmp_path / "no" / "made")})
    with pytest.raises(ArmFailed, match="FileNotFoundError"):
        await fault.arm()
    assert fault.status().state is State.FAILED


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import there_is_no_such_module", "cannot be imported"),
        ("NAME = 'a.b'", "it has no PROOF"),
        ("NAME = 'a.b'\nPROOF = 'hit'\ndef arm(fault): pass", "no docstring"),
        ("'''Doc.'''\nNAME = 'a.b'\nPROOF = 'faith'\ndef arm(fault): pass", "PROOF is 'faith'"),
        ("'''Doc.'''\nNAME = 'noop'\nPROOF = 'hit'\ndef arm(fault): pass", "name"),
        ("'''Doc.'''\nNAME = 'a.b'\nPROOF = 'hit'\nPARAMETERS = {'x': {}}\ndef arm(fault): pass", "'type'"),
    ],
)
async def test_a_plugin_that_cannot_be_used_is_named(
    controller: Controller, plugins: Plugins, source: str, says: str
) -> None:
    plugins.install("broken_plugin", source)
    with pytest.raises(BrokenPlugin, match=says) as told:
        controller.arm("noop")
    assert "broken_plugin" in str(told.value)
