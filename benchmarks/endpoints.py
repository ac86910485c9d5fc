"""The three endpoints beside their floors, at rest."""

from __future__ import annotations

from benchmarks import servers, shots
from benchmarks.figures import Section, alternate


def run(*, rounds: int) -> Section:
    """Compare /health, /metrics and gRPC health with a raw socket and a bare grpc.aio server."""
    section = Section(
        "Endpoints at rest",
        "p50 of a round trip, subject and floor in alternating batches. Floors: a blocking socket that "
        "answers without parsing, and grpc.aio with nothing but the stock health service.",
    )
    with (
        servers.floor("raw") as raw,
        servers.floor("raw") as raw_kept,  # one connection at a time: a kept one has the floor to itself
        servers.floor("grpc") as bare,
        servers.pegaref() as server,
    ):
        taken = alternate(
            {
                "raw fresh": shots.fresh(raw, "/health"),
                "health fresh": shots.fresh(server.http_port, "/health"),
                "raw kept": shots.kept(raw_kept, "/health"),
            },
            rounds=rounds,
            batch=100,
        ) | alternate(
            {
                "health kept": shots.kept(server.http_port, "/health"),
                "metrics kept": shots.kept(server.http_port, "/metrics"),
                "grpc floor": shots.grpc_health(f"127.0.0.1:{bare}"),
                "grpc health": shots.grpc_health(server.grpc_address),
            },
            rounds=rounds,
            batch=100,
        )
    for name, latencies in taken.items():
        section.add(f"{name}, p50", latencies.p50_ms, "ms", note=f"p99 {latencies.p99_ms:.3g} ms")
    health = taken["health fresh"].p50_ms
    section.add("`/health` fresh / raw socket", health / taken["raw fresh"].p50_ms, "×", limit=2.0)
    section.add("`/health` kept-alive / fresh", taken["health kept"].p50_ms / health, "×", limit=1.0)
    section.add(
        "gRPC health / bare grpc.aio",
        taken["grpc health"].p50_ms / taken["grpc floor"].p50_ms,
        "×",
        limit=1.3,
    )
    return section
