"""Series: one for each endpoint and kind of connection, at times that the seed decides."""

from __future__ import annotations

from pathlib import Path

from scenarios.prober.series import series_set
from scenarios.spec import target_file

NAMES = {"http": "127.0.0.1:1", "grpc": "127.0.0.1:2"}


def test_every_endpoint_is_probed_over_fresh_and_over_kept_connections(servers: Path) -> None:
    found = series_set(target_file.load(servers / "tiny-loop.toml").spec, NAMES, 0)
    assert found.names == (
        "http /health",
        "http /health (kept-alive)",
        "http /metrics",
        "http /metrics (kept-alive)",
        "grpc health",
        "grpc health (kept-alive)",
    )
    assert [getattr(lane, "kept", None) for lane in found.probed] == [False, True] * 3


def test_the_same_seed_gives_the_same_times_and_another_seed_others(servers: Path) -> None:
    target = target_file.load(servers / "tiny-loop.toml").spec

    def offsets(seed: int) -> list[float]:
        return [lane.offset_s for lane in series_set(target, NAMES, seed).probed]

    assert offsets(1) == offsets(1) != offsets(2)
    assert all(0 <= offset_s < 0.1 for offset_s in offsets(1))
