"""Any order of calls, clients that come, go and are killed, faults and their ends, on a real server, against
a plain dictionary of who owns what.

It runs a server in placement `process` with two devices. After every step the devices that are well must
hold what the dictionary says, by /instances, by /metrics and by what the kernel says their processes have
mapped; a device that hangs must show what it surely holds and nothing that nobody asked for; and every
liveness probe must have been answered within 2 s. A failure prints the whole sequence with its answers.

The same few sequences run each time, in about a minute. To search further, with new sequences each time and
the failing one made as short as can be:

    PEGAREF_MODEL_SEQUENCES=500 pytest tests/pegaref/test_server_model.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.pegaref.server_machine import NBYTES, ServerMachine
from tests.pegaref.server_model import OK, Context, Model, Seen, Violation
from tests.pegaref.server_world import World

SEQUENCES = os.environ.get("PEGAREF_MODEL_SEQUENCES")
FEW_SEQUENCES, STEPS = 10, 25


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One server for all sequences; after each it must be empty again."""
    with World(tmp_path_factory.mktemp("world")) as world:
        world.ready()
        yield world


@pytest.mark.torch
def test_no_tensor_is_orphaned_no_registration_is_lost_and_the_server_stays_lit(world: World) -> None:
    class Server(ServerMachine):
        pass

    Server.world = world
    run_state_machine_as_test(
        Server,
        settings=settings(
            max_examples=FEW_SEQUENCES if SEQUENCES is None else int(SEQUENCES),
            stateful_step_count=STEPS,
            derandomize=SEQUENCES is None,
            database=None,
            deadline=None,  # a step waits for other processes
            # Finding a shorter sequence takes minutes, and the journal tells the long one.
            phases=[Phase.generate] if SEQUENCES is None else [Phase.generate, Phase.shrink],
        ),
    )
    assert all(world.prober.answers.values()), "an endpoint was never asked"


HELD = Context("a", True, 0, 1, NBYTES)


def model() -> Model:
    """One register on device 0, carried out."""
    made = Model()
    made.submitted("memory", "a", 0, 0, 1, NBYTES)
    made.answered("memory", OK)
    return made


@pytest.mark.parametrize("fault", [None, "gil.hold"])
def test_the_model_tells_a_lost_registration_and_an_orphan_from_what_it_knows(fault: str | None) -> None:
    known = model()
    if fault is not None:
        known.faults[0] = fault
    well = Seen((HELD,), counted=(1, 1, NBYTES), mapped=frozenset({"memory"}))
    assert known.contradiction(0, well) == ""
    assert "lost (not mapped)" in known.contradiction(0, Seen((HELD,), counted=(1, 1, NBYTES)))
    assert "lost (not in /instances)" in known.contradiction(0, Seen(mapped=frozenset({"memory"})))
    more = Seen((HELD,), counted=(1, 1, NBYTES), mapped=frozenset({"memory", "other"}))
    assert "orphan (mapped)" in known.contradiction(0, more)


def test_the_model_takes_no_refusal_from_a_device_that_is_well() -> None:
    known = model()
    known.submitted("other", "a", 0, 0, 1, NBYTES)
    with pytest.raises(Violation, match="ALREADY_EXISTS"):
        known.answered("other", "UNAVAILABLE")
