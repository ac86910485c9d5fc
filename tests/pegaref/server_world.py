"""A real server with everything that its model needs: faults, a prober, and readings of its state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pegaref.client import Client
from tests.pegaref.breaker import Breaker
from tests.pegaref.prober import Prober
from tests.pegaref.running import DEADLINE_S, Running, eventually, running
from tests.pegaref.server_model import Context, Seen

DEVICES = (0, 1)
WEDGE_AFTER_S = 1.5  # above what a busy machine keeps a healthy actor waiting, below a few calls that hang

_MAPPED = re.compile(r"/dev/shm/(.+?)(?: \(deleted\))?$")
_COUNTED = ("pegaref_contexts", "pegaref_tensors", "pegaref_tensor_bytes")


class World:
    """One server at a time, which is kept until a test spoils it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._life = ExitStack()
        self.spoilt = True  # what a failed sequence leaves behind must not be taken for the next one's doing
        self.breaker: Breaker
        self.server: Running
        self.prober: Prober
        self.client: Client
        self.web: httpx.Client
        self._actors: Mapping[int, int] = {}
        self._own: Mapping[int, frozenset[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._life.close()

    def ready(self) -> None:
        """Have a server that holds nothing: a new one if the last was spoilt."""
        if not self.spoilt:
            return
        self._life.close()
        self.breaker = self._life.enter_context(Breaker())
        flags = (
            f"--devices={','.join(map(str, DEVICES))}",
            f"--wedge-after={WEDGE_AFTER_S}",
            "--on-wedge=report",
        )
        self.server = self._life.enter_context(
            running(self._folder, *flags, environment=self.breaker.environment())
        )
        self.web = self._life.enter_context(
            httpx.Client(base_url=f"http://{self.server.http}", timeout=DEADLINE_S)
        )
        self.client = self._life.enter_context(self.server.client())
        self._actors = {device: self.server.actor_pid(device) for device in DEVICES}
        self._own = {device: self._mapped(device) for device in DEVICES}
        self.prober = self._life.enter_context(Prober(self.server.http, self.server.grpc))
        self.spoilt = False

    def actor(self, device: int) -> int:
        """The process that holds the device's tensors, which stays the same: nothing here ends it."""
        return self._actors[device]

    def wait_well(self, device: int) -> None:
        """Return once the server says that the device takes work."""
        eventually(
            lambda: self.server.ready()["devices"][str(device)]["ready"],
            what=f"device {device} is ready again",
        )

    def see(self) -> tuple[int, dict[int, Seen]]:
        """The number of sessions, and each device."""
        shown = self.web.get("/instances").json()
        samples = self._metrics()
        return shown["sessions"], {
            device: self._device(device, shown["contexts"], samples) for device in DEVICES
        }

    def registers_in_flight(self, device: int) -> int:
        """Registers that wait for the device's actor, or are with it."""
        return int(self._metrics().get(("pegaref_commands_in_flight", str(device), "register"), 0))

    def _device(
        self, device: int, contexts: list[dict[str, Any]], samples: dict[tuple[str, ...], float]
    ) -> Seen:
        here = [context for context in contexts if context["device"] == device]
        counted = tuple(int(samples[name, str(device)]) for name in _COUNTED)
        return Seen(
            contexts=tuple(
                Context(one["instance"], one["generation"] == 0, one["tp_rank"], one["tensors"], one["bytes"])
                for one in here
            ),
            settled=all(one["settled"] for one in here),
            counted=(counted[0], counted[1], counted[2]),
            in_flight=int(
                sum(
                    value
                    for name, value in samples.items()
                    if name[:2] == ("pegaref_commands_in_flight", str(device))
                )
            ),
            mapped=self._mapped(device) - self._own[device],
        )

    def _metrics(self) -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(self.web.get("/metrics").text)
        return {
            (
                sample.name,
                *(sample.labels[name] for name in ("device", "operation") if name in sample.labels),
            ): (sample.value)
            for family in families
            if family.name in (*_COUNTED, "pegaref_commands_in_flight")
            for sample in family.samples
        }

    def _mapped(self, device: int) -> frozenset[str]:
        """The shared memory that the kernel says the actor has mapped, removed or not."""
        lines = Path(f"/proc/{self._actors[device]}/maps").read_text().splitlines()
        return frozenset(found[1] for line in lines if (found := _MAPPED.search(line)))
