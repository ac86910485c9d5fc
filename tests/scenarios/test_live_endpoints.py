"""Endpoints as they are now, from what the prober tells: lit, missed, dark, since when, and their strip."""

from __future__ import annotations

from scenarios.live.endpoints import KEPT_S, Endpoints
from scenarios.prober.messages import Batch, Began, Outcome, Probed
from scenarios.prober.series import SeriesSet, series_set
from scenarios.spec import HttpProbe, Target
from scenarios.spec.target import ConnectionKind, Launch, Ready

BEGAN_S = 1000.0
BUDGET_S = 2.0


def watched(*connections: ConnectionKind) -> SeriesSet:
    probe = HttpProbe("http /health", "http://127.0.0.1:1/health", connections=connections or ("fresh",))
    return series_set(Target(Launch("t", (), Ready()), (probe,)), {}, 0)


class Fed:
    """Endpoints, fed by hand."""

    def __init__(self, *connections: ConnectionKind) -> None:
        self.endpoints = Endpoints(watched(*connections), BEGAN_S)

    def answer(self, at_s: float, took_s: float = 0.001, outcome: Outcome = "ok", lane: int = 0) -> None:
        at_s += BEGAN_S
        self.endpoints.add(Batch(at_s, (Began(lane, at_s, at_s),), (), 0.0))
        self.endpoints.add(
            Batch(at_s + took_s, (), (Probed(lane, at_s, at_s, at_s + took_s, outcome, 200),), 0.0)
        )

    def steady(self, from_s: float, to_s: float, lane: int = 0) -> None:
        for i in range(round((to_s - from_s) * 10)):
            self.answer(from_s + i / 10, lane=lane)

    def until(self, now_s: float) -> None:
        self.endpoints.add(Batch(BEGAN_S + now_s, (), (), 0.0))


def test_silence_over_the_budget_is_darkness_and_less_is_not() -> None:
    fed = Fed()
    fed.steady(0, 2)
    fed.until(1.9 + BUDGET_S)
    assert fed.endpoints.seen()[0].state == "lit"
    fed.until(1.9 + BUDGET_S + 0.1)
    (seen,) = fed.endpoints.seen()
    assert seen.state == "dark"
    assert seen.dark_s is not None
    assert abs(seen.dark_s - 2.099) < 0.01


def test_an_endpoint_is_dark_when_only_its_kept_connections_are() -> None:
    fed = Fed("fresh", "kept")
    fed.steady(0, 1, lane=0)
    fed.steady(0, 1, lane=1)
    fed.steady(1, 4, lane=0)
    assert fed.endpoints.seen()[0].state == "dark"
    fed.steady(4, 5, lane=1)
    assert fed.endpoints.seen()[0].state == "lit"


def test_a_wrong_answer_is_missed_at_first_and_dark_when_nothing_else_comes() -> None:
    fed = Fed()
    fed.steady(0, 1)
    fed.answer(1.0, outcome="wrong")
    assert fed.endpoints.seen()[0].state == "missed"
    for i in range(22):
        fed.answer(1.0 + i / 10, outcome="wrong")
    assert fed.endpoints.seen()[0].state == "dark"


def test_nothing_is_said_of_an_endpoint_before_its_first_answer() -> None:
    fed = Fed()
    fed.until(1.0)
    (seen,) = fed.endpoints.seen()
    assert (seen.state, seen.p50_s, seen.last_s) == ("unknown", None, None)
    fed.answer(1.1, outcome="refused")
    assert fed.endpoints.seen()[0].state == "unknown"
    assert fed.endpoints.changes() == ()


def test_only_changes_between_lit_and_dark_are_told() -> None:
    fed = Fed()
    fed.steady(0, 1)
    assert [(c.dark, c.first) for c in fed.endpoints.changes()] == [(False, True)]
    fed.answer(1.0, outcome="wrong")
    assert fed.endpoints.changes() == ()
    fed.until(5.0)
    (went,) = fed.endpoints.changes()
    assert (went.dark, went.first, went.outcome) == (True, False, "wrong")
    assert fed.endpoints.changes() == ()
    fed.answer(5.5)
    (came,) = fed.endpoints.changes()
    assert not came.dark
    assert came.after_s is not None
    assert abs(came.after_s - 4.1) < 0.1


def test_the_longest_gap_counts_the_one_that_goes_on() -> None:
    fed = Fed()
    fed.steady(0, 1)
    fed.answer(3.9)
    fed.until(4.0)
    assert abs(fed.endpoints.seen()[0].longest_gap_s - 3.0) < 0.01
    fed.until(10.0)
    assert abs(fed.endpoints.seen()[0].longest_gap_s - 6.1) < 0.01


def test_the_strip_is_dark_just_where_there_was_no_answer() -> None:
    fed = Fed()
    fed.steady(0, 2)
    fed.steady(5, 6)
    strip = fed.endpoints.seen(12)[0].strip
    assert strip == ("lit",) * 4 + ("dark",) * 6 + ("lit",) * 2


def test_a_probe_under_way_leaves_its_slice_open_until_the_silence_is_long() -> None:
    fed = Fed()
    fed.steady(0, 1.5)
    fed.endpoints.add(Batch(BEGAN_S + 1.6, (Began(0, BEGAN_S + 1.5, BEGAN_S + 1.5),), (), 0.0))
    assert fed.endpoints.seen(2)[0].strip == ("lit", "waiting")
    fed.until(4.0)
    assert fed.endpoints.seen(4)[0].strip[-2:] == ("dark", "dark")


def test_what_is_kept_of_a_long_watch_is_bounded() -> None:
    fed = Fed()
    fed.steady(0, 3 * KEPT_S)
    (connection,) = fed.endpoints._connections
    assert len(connection._answers) <= KEPT_S * 10 + 1
    assert len(connection._good) <= KEPT_S / fed.endpoints.slice_s + 1
    assert not connection._under_way
    assert fed.endpoints.seen()[0].sent == 3 * KEPT_S * 10


def test_the_probers_own_lateness_is_known() -> None:
    fed = Fed()
    assert fed.endpoints.late_s() == 0.0
    fed.endpoints.add(Batch(BEGAN_S + 1, (Began(0, BEGAN_S, BEGAN_S + 0.7),), (), 0.0))
    assert abs(fed.endpoints.late_s() - 0.7) < 0.001
