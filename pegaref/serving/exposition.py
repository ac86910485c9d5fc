"""The Prometheus text, made from plain numbers at each scrape.

A scrape reads memory and waits for nothing, so a device that hangs is seen hanging. It is made on the event
loop, which stands meanwhile: text that did not change since the last scrape is used again, a route's until
a request of it begins or ends, a device's until its mark changes. Everything else is formatted anew, so no
value is older than its scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from pegaref.registry import DeviceSnapshot, Hang
from pegaref.serving.metrics import BUCKETS_S, DeviceReading, Metrics, RequestCounters, RouteCounters

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LE = (*(str(bound) for bound in BUCKETS_S), "+Inf")
_EXPONENT_FROM: Final = 1_000_000  # larger numbers are written as 1.5e+06, as Prometheus' own libraries do

_Reading = Callable[[DeviceSnapshot], float]
_Samples = tuple[bytes, ...]  # one route's, or one device's, in each of the families; b"" where it has none


class Exposition:
    """Makes the text of one server's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rpc = _RequestFamilies(metrics.rpc, "grpc", "method", "code")
        self._http = _RequestFamilies(metrics.http, "http", "route", "status")
        self._devices = _DeviceFamilies(metrics.devices)

    def text(self) -> bytes:
        """The metrics as they are now."""
        own = "".join([f"{head}{number(read(self._metrics))}\n" for head, read in _OWN])
        return b"".join((self._rpc.text(), self._http.text(), own.encode(), self._devices.text()))


def number(value: float) -> str:
    """A number as Prometheus' libraries write it."""
    if isinstance(value, int) and -_EXPONENT_FROM < value < _EXPONENT_FROM:
        return f"{value}.0"
    text = repr(float(value))
    point = text.find(".")
    if value >= _EXPONENT_FROM and point > 0 and "e" not in text:
        digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
        return f"{digits}e+{point - 1:02}"
    return text


class _Known(NamedTuple):
    """Samples, and what they were made from."""

    mark: object
    samples: _Samples


class _Families:
    """Some families in their order, each with the samples of every route or of every device."""

    def __init__(self, families: Sequence[tuple[str, str, str]]) -> None:
        self._heads = [_head(*family).encode() for family in families]
        self._known: dict[str | int, _Known] = {}
        self._text: bytes | None = None

    def changed(self, key: str | int, mark: object) -> bool:
        """Whether the samples have to be made anew."""
        known = self._known.get(key)
        return known is None or mark is None or known.mark != mark

    def set(self, key: str | int, mark: object, samples: _Samples) -> None:
        """Keep the samples of one route or device."""
        self._known[key] = _Known(mark, samples)
        self._text = None

    def joined(self) -> bytes:
        """The families' text."""
        if self._text is None:
            parts: list[bytes] = []
            columns = zip(*(known.samples for known in self._known.values()), strict=True)
            for head, column in zip(
                self._heads, columns if self._known else ((),) * len(self._heads), strict=True
            ):
                parts.append(head)
                parts += column
            self._text = b"".join(parts)
        return self._text


class _RequestFamilies(_Families):
    """What is counted of one protocol's requests. A route that was never asked for has no samples."""

    def __init__(self, requests: RequestCounters, wire: str, label: str, outcome: str) -> None:
        self._requests = requests
        self._prefix = f"pegaref_{wire}_request"
        self._label = label
        self._outcome = outcome
        # What stands before the numbers of a route: those of its histogram, and those of its outcomes.
        self._bounds: dict[str, tuple[str, ...]] = {}
        self._ends: dict[tuple[str, str], str] = {}
        super().__init__(
            (
                (f"{self._prefix}s_total", f"{wire} requests answered.", "counter"),
                (f"{self._prefix}_duration_seconds", f"Time to answer {wire} requests.", "histogram"),
                (f"{self._prefix}s_in_flight", f"{wire} requests not answered yet.", "gauge"),
            )
        )

    def text(self) -> bytes:
        for name, route in self._requests.routes.items():
            if route.changes and self.changed(name, route.changes):
                self.set(name, route.changes, self._samples(name, route))
        return self.joined()

    def _samples(self, name: str, route: RouteCounters) -> _Samples:
        bounds = self._bounds.get(name)
        if bounds is None:
            bounds = self._bounds[name] = self._histogram_of(name)
        ends, counts = self._ends, []
        for outcome, ended in route.outcomes.items():
            end = ends.get((name, outcome))
            if end is None:
                end = ends[name, outcome] = self._outcome_of(name, outcome)
            counts.append(f"{end}{number(ended)}\n")
        below = list(accumulate(route.buckets))
        numbers = (*below, below[-1], route.seconds, route.in_flight)
        *histogram, in_flight = [f"{bound}{number(n)}\n" for bound, n in zip(bounds, numbers, strict=True)]
        return "".join(counts).encode(), "".join(histogram).encode(), in_flight.encode()

    def _outcome_of(self, name: str, outcome: str) -> str:
        # The library sorts the labels of a sample by name.
        pairs = sorted((f'{self._outcome}="{_escaped(outcome)}"', f'{self._label}="{_escaped(name)}"'))
        return f"{self._prefix}s_total{{{','.join(pairs)}}} "

    def _histogram_of(self, name: str) -> tuple[str, ...]:
        prefix, labelled = self._prefix, f'{self._label}="{_escaped(name)}"'
        return (
            *(f'{prefix}_duration_seconds_bucket{{le="{le}",{labelled}}} ' for le in _LE),
            f"{prefix}_duration_seconds_count{{{labelled}}} ",
            f"{prefix}_duration_seconds_sum{{{labelled}}} ",
            f"{prefix}s_in_flight{{{labelled}}} ",
        )


class _DeviceFamilies(_Families):
    """What is told of each device."""

    def __init__(self, devices: Callable[[], Iterable[DeviceReading]]) -> None:
        self._devices = devices
        super().__init__(
            (
                *((f"pegaref_{name}", help_, "gauge") for name, help_, _ in _GAUGES),
                *((f"pegaref_{name}_total", help_, "counter") for name, help_, _ in _COUNTERS),
                ("pegaref_device_info", "1, for the type of a device that has been ready once.", "gauge"),
                ("pegaref_wedged", "1 for the kind of hang that a device's actor is in.", "gauge"),
                ("pegaref_commands_in_flight", "Commands that wait or run.", "gauge"),
                ("pegaref_commands_total", "Commands by how they ended.", "counter"),
            )
        )

    def text(self) -> bytes:
        for device in self._devices():
            mark = device.mark()
            if self.changed(device.device_id, mark):
                self.set(device.device_id, mark, _device_samples(device.snapshot()))
        return self.joined()


def _device_samples(device: DeviceSnapshot) -> _Samples:
    labelled = f'device="{device.device_id}"'
    lines = [f"pegaref_{name}{{{labelled}}} {number(read(device))}\n" for name, _, read in _GAUGES]
    lines += [f"pegaref_{name}_total{{{labelled}}} {number(read(device))}\n" for name, _, read in _COUNTERS]
    info = (
        f'pegaref_device_info{{{labelled},type="{device.device_type}"}} {number(1)}\n'
        if device.device_type
        else ""
    )
    kinds = [
        f'pegaref_wedged{{{labelled},kind="{kind}"}} {number(int(device.hang is kind))}\n' for kind in Hang
    ]
    in_flight = [
        f'pegaref_commands_in_flight{{{labelled},operation="{operation}"}} {number(commands)}\n'
        for operation, commands in sorted(device.in_flight.items())
    ]
    finished = [
        f'pegaref_commands_total{{{labelled},operation="{operation}",outcome="{outcome}"}} {number(ended)}\n'
        for (operation, outcome), ended in sorted(device.finished.items())
    ]
    families = (*lines, info, "".join(kinds), "".join(in_flight), "".join(finished))
    return tuple(family.encode() for family in families)


def _head(name: str, help_: str, kind: str) -> str:
    return f"# HELP {name} {help_}\n# TYPE {name} {kind}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _own(
    name: str, help_: str, kind: str, read: Callable[[Metrics], float]
) -> tuple[str, Callable[[Metrics], float]]:
    return f"{_head(name, help_, kind)}{name} ", read


_OWN: tuple[tuple[str, Callable[[Metrics], float]], ...] = (
    _own("pegaref_sessions", "Open sessions.", "gauge", lambda m: m.sessions()),
    _own(
        "pegaref_event_loop_lag_seconds",
        "How late the event loop ran its last timer.",
        "gauge",
        lambda m: m.loop_lag_s,
    ),
    _own(
        "pegaref_event_loop_lag_max_seconds",
        "The latest that the event loop has run a timer since the server started.",
        "gauge",
        lambda m: m.loop_lag_most_s,
    ),
    _own(
        "pegaref_log_lines_lost_total",
        "Lines of the log that nobody read in time.",
        "counter",
        lambda m: m.lost_log_lines(),
    ),
    _own("pegaref_grpc_connections", "Open gRPC connections.", "gauge", lambda m: m.relay.connections),
    _own(
        "pegaref_grpc_streams_refused_total",
        "Streams refused, since one connection had too many.",
        "counter",
        lambda m: m.relay.streams_refused,
    ),
    _own(
        "pegaref_grpc_connections_evicted_total",
        "gRPC connections that gave way to new ones.",
        "counter",
        lambda m: m.relay.evicted,
    ),
    _own(
        "pegaref_grpc_connections_refused_total",
        "gRPC connections closed for what they sent.",
        "counter",
        lambda m: m.relay.closed,
    ),
    _own(
        "pegaref_grpc_throttles_total",
        "Times that a gRPC connection waited because it sent too much.",
        "counter",
        lambda m: m.relay.throttled,
    ),
)

_GAUGES: tuple[tuple[str, str, _Reading], ...] = (
    ("device_ready", "1 when the device's actor takes work.", lambda d: int(d.ready)),
    ("mailbox_commands", "Registers that wait for the actor.", lambda d: d.mailbox_depth),
    ("mailbox_bytes", "Bytes of the registers that wait for the actor.", lambda d: d.mailbox_bytes),
    ("mailbox_cleanups", "Cleanups that wait for the actor.", lambda d: d.cleanup_depth),
    (
        "oldest_command_age_seconds",
        "Age of the oldest command that waits or runs; 0 when there is none.",
        lambda d: d.oldest_command_age_s,
    ),
    ("wedged_seconds", "How long the actor has hung; 0 when it does not.", lambda d: d.hang_age_s),
    ("contexts", "Contexts that the registry holds.", lambda d: d.contexts),
    ("tensors", "Tensors that the registry holds.", lambda d: d.tensors),
    ("tensor_bytes", "Bytes of the tensors that the registry holds.", lambda d: d.bytes),
    ("actor_epoch", "1 for the device's first actor, one more for each that replaced it.", lambda d: d.epoch),
)

_COUNTERS: tuple[tuple[str, str, _Reading], ...] = (
    ("actor_respawns", "Actors that were replaced.", lambda d: d.respawns),
    ("commands_rejected", "Registers refused because the mailbox was full.", lambda d: d.rejected),
    (
        "registers_rolled_back",
        "Registers undone because nobody waited for them any more.",
        lambda d: d.rolled_back,
    ),
    ("replies_lost", "Commands whose answer never came.", lambda d: d.lost_replies),
    (
        "replies_unexpected",
        "Answers that were dropped, since no command waited for them.",
        lambda d: d.unexpected_replies,
    ),
)
