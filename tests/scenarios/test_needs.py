"""A target whose needs the machine cannot meet is skipped with a reason, and only such a one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scenarios.server.needs import unmet_needs
from scenarios.spec import LoadedTarget, Target
from scenarios.spec.document import Document
from scenarios.spec.target import Launch, Ready


def target(*needs: Literal["gpu", "2-gpus"]) -> LoadedTarget:
    start = Launch("mine", ("server",), Ready(url="http://127.0.0.1:1/"), needs=needs)
    path = Path("mine.toml")
    return LoadedTarget(path, Target(start, ()), Document(path, ""))


def test_a_gpu_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    assert unmet_needs(target("gpu"), devices=tmp_path) == (
        f"needs an NVIDIA GPU, and there is none here (no {tmp_path}/nvidia0)"
    )


def test_a_gpu_that_is_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()

    assert unmet_needs(target("gpu"), devices=tmp_path) is None


def test_the_drivers_control_device_alone_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()

    assert unmet_needs(target("gpu"), devices=tmp_path) is not None


def test_a_second_gpu_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()

    assert unmet_needs(target("2-gpus"), devices=tmp_path) == (
        f"needs two NVIDIA GPUs, and there is one here ({tmp_path}/nvidia*)"
    )


def test_two_gpus_are_enough_for_who_needs_two(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()

    assert unmet_needs(target("gpu", "2-gpus"), devices=tmp_path) is None


def test_a_target_without_needs_runs_anywhere(tmp_path: Path) -> None:
    assert unmet_needs(target(), devices=tmp_path) is None
