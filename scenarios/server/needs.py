"""What a target needs from the machine (`needs = ["gpu"]`), and why it is skipped if that is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from scenarios.spec.target_file import LoadedTarget

_DEVICES = Path("/dev")


def unmet_needs(loaded: LoadedTarget, *, devices: Path = _DEVICES) -> str | None:
    """Why the target cannot run on this machine, in words; None when nothing is missing.

    A skipped target neither passes nor fails; the report lists it with this reason.
    """
    needs = loaded.start.needs
    reasons = [reason for need in needs if (reason := _MISSING[need](devices)) is not None]
    return "; ".join(reasons) or None


def _no_gpu(devices: Path) -> str | None:
    if _gpus(devices) >= 1:
        return None
    return f"needs an NVIDIA GPU, and there is none here (no {devices}/nvidia0)"


def _no_second_gpu(devices: Path) -> str | None:
    if (found := _gpus(devices)) >= 2:
        return None
    return f"needs two NVIDIA GPUs, and there {'is one' if found else 'is none'} here ({devices}/nvidia*)"


def _gpus(devices: Path) -> float:
    """The driver makes `nvidia0`, `nvidia1`, … for its GPUs. Under WSL `dxg` stands for them and does not
    tell how many there are: as many as anyone needs."""
    return math.inf if (devices / "dxg").exists() else len(list(devices.glob("nvidia[0-9]*")))


_MISSING: Mapping[str, Callable[[Path], str | None]] = {"gpu": _no_gpu, "2-gpus": _no_second_gpu}
