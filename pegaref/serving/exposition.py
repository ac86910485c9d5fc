"""The Prometheus text, made by prometheus_client from plain numbers at each scrape.

It has a registry of its own: the library's process-wide default is not touched. A scrape reads memory and
waits for nothing, so a device that hangs is seen hanging. Loading the library takes a fifth of the time that
loading the whole server takes, so this module is loaded once the server listens.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pegaref.registry import DeviceSnapshot, Hang
from pegaref.serving.metrics import BUCKETS_S, Metrics, RequestCounters

_LE = (*(str(bound) for bound in BUCKETS_S), "+Inf")

_Reading = Callable[[DeviceSnapshot], float]


class Exposition:
    """Makes the text of one server's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(ServerCollector(metrics))

    def text(self) -> bytes:
        """The metrics as they are now."""
        return generate_latest(self._registry)


class ServerCollector(Collector):
    """Turns the numbers of a `Metrics` into the library's families of samples."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, since the library would otherwise collect when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yields one family after another."""
        metrics = self._metrics
        yield from _requests(metrics.rpc, "grpc", "method", "code")
        yield from _requests(metrics.http, "http", "route", "status")
        yield GaugeMetricFamily("pegaref_sessions", "Open sessions.", metrics.sessions())
        yield GaugeMetricFamily(
            "pegaref_event_loop_lag_seconds",
            "How late the event loop ran its last timer.",
            metrics.loop_lag_s,
        )
        yield GaugeMetricFamily(
            "pegaref_event_loop_lag_max_seconds",
            "The latest that the event loop has run a timer since the server started.",
            metrics.loop_lag_most_s,
        )
        relay = metrics.relay
        yield GaugeMetricFamily("pegaref_grpc_connections", "Open gRPC connections.", relay.connections)
        for name, help_, value in (
            ("streams_refused", "Streams refused, since one connection had too many.", relay.streams_refused),
            ("connections_evicted", "gRPC connections that gave way to new ones.", relay.evicted),
            ("connections_refused", "gRPC connections closed for what they sent.", relay.closed),
            ("throttles", "Times that a gRPC connection waited for it sent too much.", relay.throttled),
        ):
            yield CounterMetricFamily(f"pegaref_grpc_{name}", help_, value)
        devices = tuple(metrics.snapshot().devices.values())
        for name, help_, gauge in _GAUGES:
            family = GaugeMetricFamily(f"pegaref_{name}", help_, labels=("device",))
            for device in devices:
                family.add_metric((str(device.device_id),), gauge(device))
            yield family
        for name, help_, counter in _COUNTERS:
            counted = CounterMetricFamily(f"pegaref_{name}", help_, labels=("device",))
            for device in devices:
                counted.add_metric((str(device.device_id),), counter(device))
            yield counted
        yield _wedged(devices)
        yield _in_flight(devices)
        yield _finished(devices)


def _requests(requests: RequestCounters, wire: str, label: str, outcome: str) -> Iterator[Metric]:
    count = CounterMetricFamily(
        f"pegaref_{wire}_requests", f"{wire} requests answered.", labels=(label, outcome)
    )
    duration = HistogramMetricFamily(
        f"pegaref_{wire}_request_duration_seconds", f"Time to answer {wire} requests.", labels=(label,)
    )
    in_flight = GaugeMetricFamily(
        f"pegaref_{wire}_requests_in_flight", f"{wire} requests not answered yet.", labels=(label,)
    )
    for name, route in requests.routes.items():
        if not route.used:
            continue
        for ended, number in route.outcomes.items():
            count.add_metric((name, ended), number)
        buckets = list(zip(_LE, accumulate(route.buckets), strict=True))
        duration.add_metric((name,), buckets, route.seconds)
        in_flight.add_metric((name,), route.in_flight)
    yield from (count, duration, in_flight)


_GAUGES: tuple[tuple[str, str, _Reading], ...] = (
    ("device_ready", "1 when the device's actor takes work.", lambda d: float(d.ready)),
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
)


def _wedged(devices: tuple[DeviceSnapshot, ...]) -> Metric:
    family = GaugeMetricFamily(
        "pegaref_wedged", "1 for the kind of hang that a device's actor is in.", labels=("device", "kind")
    )
    for device in devices:
        for kind in Hang:
            family.add_metric((str(device.device_id), str(kind)), float(device.hang is kind))
    return family


def _in_flight(devices: tuple[DeviceSnapshot, ...]) -> Metric:
    family = GaugeMetricFamily(
        "pegaref_commands_in_flight", "Commands that wait or run.", labels=("device", "operation")
    )
    for device in devices:
        for operation, commands in sorted(device.in_flight.items()):
            family.add_metric((str(device.device_id), operation), commands)
    return family


def _finished(devices: tuple[DeviceSnapshot, ...]) -> Metric:
    family = CounterMetricFamily(
        "pegaref_commands", "Commands by how they ended.", labels=("device", "operation", "outcome")
    )
    for device in devices:
        for (operation, outcome), commands in sorted(device.finished.items()):
            family.add_metric((str(device.device_id), operation, outcome), commands)
    return family
