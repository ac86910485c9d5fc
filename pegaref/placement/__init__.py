"""Where the actor runs: the experiment's independent variable."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Protocol

from pegaref.config import PLACEMENTS, DeviceType
from pegaref.errors import TorchMissing, UnknownPlacement
from pegaref.placement.dispatch import Dispatch
from pegaref.placement.local import InlinePlacement, ThreadPlacement
from pegaref.placement.pool import PoolPlacement
from pegaref.placement.process import ProcessPlacement
from pegaref.registry import Launcher

logger = logging.getLogger(__name__)


class Placement(Launcher, Protocol):
    """Launches actors, all for devices of one type (`cuda` or `cpu`), and says where handlers run."""

    name: str
    device_type: str
    dispatch: Dispatch

    def close(self) -> None:
        """Free what the placement itself holds. Never waits."""
        ...


def open_placement(name: str, *, device_type: DeviceType = "auto", workers: int = 2) -> Placement:
    """Make the placement of that name; `workers` matters to `pool` only.

    Its devices are of the type asked for. `auto` is `cuda` where the host shows a GPU, whether or not CUDA
    can use it: host memory in its stead would be a server that says ready and is not. Raises
    UnknownPlacement, and TorchMissing where no actor could ever start.
    """
    if name in PLACEMENTS and importlib.util.find_spec("torch") is None:
        raise TorchMissing("torch is not installed here; install it with: pip install 'pegaref[torch]'")
    resolved: str = device_type
    if device_type == "auto":
        trace = gpu_trace()
        resolved = "cuda" if trace else "cpu"
        logger.info("device type %s: this host has %s", resolved, trace or "no sign of an NVIDIA GPU")
    match name:
        case "inline":
            return InlinePlacement(resolved)
        case "pool":
            return PoolPlacement(resolved, workers)
        case "thread":
            return ThreadPlacement(resolved)
        case "process":
            return ProcessPlacement(resolved)
    raise UnknownPlacement(
        f"there is no placement {name!r}; there are {', '.join(PLACEMENTS)}", field="placement"
    )


def gpu_trace(dev: Path = Path("/dev"), proc: Path = Path("/proc")) -> str:
    """What shows that this host has an NVIDIA GPU, in use or not: a device node (`dxg` is WSL's), or the
    driver in the kernel. '' where nothing does. CUDA is not asked: a driver that is dead would say no."""
    traces = [*sorted(dev.glob("nvidia*")), dev / "dxg", proc / "driver" / "nvidia"]
    return next((str(trace) for trace in traces if trace.exists()), "")


__all__ = ["PLACEMENTS", "Dispatch", "Placement", "gpu_trace", "open_placement"]
