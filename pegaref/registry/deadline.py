"""When to answer, so that the answer still arrives: a little before the caller stops listening."""

from __future__ import annotations

MARGIN_MOST_S = 0.1
MARGIN_SHARE = 0.1


def answer_within_s(deadline_s: float) -> float:
    """How long a call with this deadline may take: a tenth less, but never more than 0.1 s less."""
    return deadline_s - min(MARGIN_MOST_S, deadline_s * MARGIN_SHARE)
