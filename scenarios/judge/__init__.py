"""From raw samples to verdicts: pure functions that judge a live run and a stored report alike."""

from scenarios.judge.report import RevisedVerdict, conclude, judge_report, revised_verdicts, with_controls
from scenarios.judge.verdict import claim, judge, proof

__all__ = [
    "RevisedVerdict",
    "claim",
    "conclude",
    "judge",
    "judge_report",
    "proof",
    "revised_verdicts",
    "with_controls",
]
