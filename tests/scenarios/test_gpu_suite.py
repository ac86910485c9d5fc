"""The GPU suite: its targets are the others over GPU memory, and it says so where there is no GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys

import msgspec
import pytest

from scenarios.spec import target_file

PLACEMENTS = ("inline", "pool", "thread", "process")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_gpu_target_is_its_twin_but_for_the_memory_that_is_shared(placement: str) -> None:
    twin = target_file.load(target_file.find(f"pegaref-{placement}")).spec
    gpu = target_file.load(target_file.find(f"pegaref-gpu-{placement}")).spec
    assert gpu.start.needs == ("gpu",)
    words = list(gpu.start.command)
    for flag, value in (("--device-type", "cuda"), ("--wedge-after", "2")):
        last = max(i for i, word in enumerate(words) if word == flag)  # the one that counts
        assert words[last + 1] == value
        del words[last : last + 2]
    assert [word for word in gpu.client[0].command if word not in twin.client[0].command] == [
        "--cuda",
        "4194304",
    ]
    start = msgspec.structs.replace(
        gpu.start,
        name=twin.start.name,
        command=tuple(words),
        summary=twin.start.summary,
        needs=twin.start.needs,
        ready_within_s=twin.start.ready_within_s,
        admits_within_s=twin.start.admits_within_s,  # a real GPU is given more time
    )
    assert msgspec.structs.replace(gpu, start=start, client=twin.client, base=twin.base) == twin


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="what is said where there is no GPU")
def test_without_a_gpu_the_suite_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "scenarios", "run", "--suite", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr
    assert done.stderr.count("\n") == 1
