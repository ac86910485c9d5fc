"""A process runs on after its controller is killed (SIGKILL), every time, and usually within a second.

`python -m benchmarks agent` does the same a hundred times.
"""

from __future__ import annotations

import math
from statistics import median

import pytest

from benchmarks.killed import FAULTS, freed_after_s

TIMES = 5
FREE_WITHIN_S = 1.0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join([fault[0], *fault[1].values()]))
def test_every_process_is_free_soon_after_its_controllers_death(
    fault: tuple[str, dict[str, str]],
) -> None:
    freed_s = freed_after_s(TIMES, faults=[fault])
    assert math.inf not in freed_s
    assert median(freed_s) < FREE_WITHIN_S
