"""Each pause before another try is longer than the one before, up to a limit."""

from __future__ import annotations

from pegaref.registry.backoff import RespawnBackoff


def test_the_first_respawn_comes_at_once_and_later_ones_ever_later() -> None:
    backoff = RespawnBackoff(0.5, 30)
    assert [backoff.next_delay_s(1) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_long_life_starts_the_count_anew() -> None:
    backoff = RespawnBackoff(0.5, 30)
    for _ in range(5):
        backoff.next_delay_s(1)
    assert backoff.next_delay_s(31) == 0
    assert backoff.next_delay_s(1) == 0.5
