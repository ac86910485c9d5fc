"""A process goes on within a second of its controller's SIGKILL, every time. `python -m benchmarks agent`
does the same a hundred times.
"""

from __future__ import annotations

import pytest

from benchmarks.killed import FAULTS, freed_after_s

TIMES = 10
FREE_WITHIN_S = 1.0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join([fault[0], *fault[1].values()]))
def test_every_process_is_free_within_a_second_of_its_controllers_death(
    fault: tuple[str, dict[str, str]],
) -> None:
    freed_s = freed_after_s(TIMES, faults=[fault])
    assert [after_s for after_s in freed_s if after_s > FREE_WITHIN_S] == []
