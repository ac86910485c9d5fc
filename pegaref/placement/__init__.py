"""Where the actor runs: the experiment's independent variable."""

from __future__ import annotations

import importlib.util
from typing import Protocol

from pegaref.config import PLACEMENTS
from pegaref.errors import TorchMissing, UnknownPlacement
from pegaref.placement.dispatch import Dispatch
from pegaref.placement.local import InlinePlacement, ThreadPlacement
from pegaref.placement.pool import PoolPlacement
from pegaref.placement.process import ProcessPlacement
from pegaref.registry import Launcher


class Placement(Launcher, Protocol):
    """Launches actors and decides where handlers run."""

    name: str
    dispatch: Dispatch

    def close(self) -> None:
        """Free what the placement itself holds. Never waits."""
        ...


def open_placement(name: str, *, workers: int = 2) -> Placement:
    """Make the placement of that name. Only `pool` uses `workers`.

    Raises UnknownPlacement, and TorchMissing if torch is not installed.
    """
    if name in PLACEMENTS and importlib.util.find_spec("torch") is None:
        raise TorchMissing("torch is not installed here; install it with: pip install 'pegaref[torch]'")
    match name:
        case "inline":
            return InlinePlacement()
        case "pool":
            return PoolPlacement(workers)
        case "thread":
            return ThreadPlacement()
        case "process":
            return ProcessPlacement()
    raise UnknownPlacement(
        f"there is no placement {name!r}; there are {', '.join(PLACEMENTS)}", field="placement"
    )


__all__ = ["PLACEMENTS", "Dispatch", "Placement", "open_placement"]
