"""HDR histograms of latencies: they agree with the exact percentiles, add up, and read only their kind."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scenarios.judge.histogram import Histogram, UnreadableHistogram
from scenarios.judge.latency import percentile, stretch_latency
from scenarios.judge.pool import SHARES, by_endpoint, merge, pool
from scenarios.record import Distribution, FaultRecord, Sample
from tests.scenarios.sample_reports import Server, one_of_each, scenario

LATENCIES = st.lists(st.floats(1e-6, 60.0, allow_nan=False), min_size=1, max_size=300)
ENOUGH = settings(max_examples=150, deadline=None)


def close(found: float, exact: float) -> bool:
    """Within three digits of it, or the histogram's smallest step and a rounding to it."""
    return abs(found - exact) <= max(1.5e-6, exact / 1000)


def nearest_rank(values: list[float], share: float) -> float:
    """By definition: the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return next(v for n, v in enumerate(ordered, 1) if n >= share * len(ordered) - 1e-9)


def timed(*latencies_s: float) -> Distribution:
    """The distribution of these latencies, of probes 10 ms apart."""
    probes = [Sample(n / 100, n / 100, n / 100 + took, "ok", 200) for n, took in enumerate(latencies_s)]
    return stretch_latency(probes, 0.0, 1e6)


@ENOUGH
@given(LATENCIES, st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8).map(sorted))
@example([0.001] * 59 + [1.0], [0.99])  # of 60 answers the library's own p99 is the second slowest
@example([60.0, 1e-6], [0.5, 1.0])
def test_percentiles_are_the_exact_ones_within_its_resolution(
    latencies: list[float], shares: list[float]
) -> None:
    found = Histogram.of(latencies)
    assert found.count == len(latencies)
    for share, seconds in zip(shares, found.percentiles(shares), strict=True):
        exact = nearest_rank(latencies, share)
        assert percentile(sorted(latencies), share) == exact
        assert close(seconds, exact), (share, seconds, exact)


@ENOUGH
@given(LATENCIES)
def test_a_phase_has_the_histogram_of_the_answers_that_its_percentiles_are_of(latencies: list[float]) -> None:
    phase = timed(*latencies)
    figures = Histogram.decode(phase.hdr).percentiles((*SHARES, 1.0))
    for seconds, ms in zip(
        figures, (phase.p50_ms, phase.p90_ms, phase.p99_ms, phase.p999_ms, phase.max_ms), strict=True
    ):
        assert ms is not None
        assert close(seconds, ms / 1e3)


@ENOUGH
@given(st.lists(LATENCIES, min_size=1, max_size=6))
def test_added_up_they_are_the_histogram_of_all(parts: list[list[float]]) -> None:
    whole = merge([timed(*part) for part in parts])
    everything = sorted(latency for part in parts for latency in part)
    assert (whole.sent, whole.ok) == (len(everything), len(everything))
    assert Histogram.decode(whole.hdr).percentiles(SHARES) == Histogram.of(everything).percentiles(SHARES)
    assert whole.max_ms is not None
    assert close(whole.max_ms / 1e3, everything[-1])


def test_what_is_out_of_range_counts_at_its_end() -> None:
    found = Histogram.of([0.0, 3_600.0])
    assert found.count == 2
    low, high = found.percentiles((0.5, 1.0))
    assert low == 1e-6
    assert close(high, 60.0)


def test_without_an_answer_there_is_no_percentile() -> None:
    assert Histogram.of([]).percentiles(SHARES) == []
    assert Histogram.decode(timed().hdr).count == 0
    assert merge([timed()]).p99_ms is None


def test_a_stall_is_in_it_with_every_wait_that_it_caused() -> None:
    """Probes every 10 ms, a server that answers nothing for a second: a hundred probes waited, not one."""
    waits = [1.0 - n / 100 for n in range(100)] + [0.001] * 100
    phase = timed(*waits)
    assert phase.p90_ms == pytest.approx(800, rel=0.01)
    assert Histogram.decode(phase.hdr).percentiles((0.9,)) == [pytest.approx(0.8, rel=0.01)]


def test_the_text_is_what_the_hdr_library_reads() -> None:
    read = HdrHistogram.decode(Histogram.of([0.001, 0.002, 0.5]).encode())
    assert (read.get_total_count(), read.get_value_at_percentile(50)) == (3, 2000)


def foreign() -> str:
    other = HdrHistogram(1, 3_600_000, 2)
    other.record_value(7)
    text: bytes = other.encode()
    return text.decode()


def bomb() -> str:
    raw = base64.b64decode(Histogram.of([0.5]).encode())
    packed = zlib.compress(zlib.decompress(raw[8:]) + bytes(50_000_000))
    return base64.b64encode(raw[:4] + struct.pack(">i", len(packed)) + packed).decode()


@pytest.mark.parametrize(
    "text",
    ["", "no", "HISTFAAAAAAA", "é", Histogram.of([0.5]).encode()[:-8], foreign(), bomb()],
    ids=["empty", "short", "nothing inside", "no ASCII", "cut off", "another range", "a bomb"],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(UnreadableHistogram):
        Histogram.decode(text)


def test_a_small_text_cannot_become_a_large_one() -> None:
    text = bomb()
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableHistogram):
            Histogram.decode(text)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_pool_is_of_scenarios_that_had_to_stay_lit_under_a_fault() -> None:
    chosen = one_of_each()
    found = pool(chosen)
    assert {target: {series.scenarios for series in pooled.values()} for target, pooled in found.items()} == {
        "pegaref-process": {1},
        "pegaref-thread": {1},
        "pegaref-pool": {1},  # the failure that went dark; the controls and the unproven one are not there
    }
    assert "http /ready" not in found["pegaref-process"]  # not watched
    assert pool([scenario("noop@x", fault=FaultRecord(name="noop", is_control=True))]) == {}
    assert pool([scenario(bites=False)]) == {}


def test_silence_shows_in_the_pool_as_probes_without_an_answer() -> None:
    cases: tuple[tuple[Server, int], ...] = (("stalled", 0), ("lit", 1))
    for server, answered in cases:
        (pooled,) = pool([scenario(server=server)]).values()
        under = pooled["http /health"].faulted
        assert under.sent > 0
        assert under.ok == answered * under.sent


def test_an_endpoints_connections_add_up() -> None:
    (pooled,) = pool([scenario(), scenario(seed=1)]).values()
    endpoints = by_endpoint(pooled)
    assert list(endpoints) == ["http /health", "http /metrics", "grpc health"]
    baseline, faulted = endpoints["http /health"]
    fresh, kept = pooled["http /health"], pooled["http /health (kept-alive)"]
    assert baseline.ok == fresh.baseline.ok + kept.baseline.ok
    assert faulted.sent == fresh.faulted.sent + kept.faulted.sent
    slowest = [series.faulted.max_ms for series in (fresh, kept) if series.faulted.max_ms is not None]
    assert faulted.max_ms == max(slowest)


def test_a_report_from_before_there_were_histograms_has_no_pool() -> None:
    given = scenario()
    bare = {series: replace(found, hdr="") for series, found in given.phases.baseline.items()}
    assert pool([replace(given, phases=replace(given.phases, baseline=bare))]) == {}
