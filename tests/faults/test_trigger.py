"""Keywords say which calls a fault acts on; the target decides, and the same way each time."""

from __future__ import annotations

from typing import Any

import pytest

from faults import BadTrigger, Controller
from tests.faults.bench import LaunchedTarget

ALL = range(1, 11)


@pytest.mark.parametrize(
    ("trigger", "dropped"),
    [
        ({}, list(ALL)),
        ({"on_hit": 3}, [3]),
        ({"on_hit": "3"}, [3]),
        ({"hits": "3..5"}, [3, 4, 5]),
        ({"hits": (9, 20)}, [9, 10]),
        ({"times": 2}, [1, 2]),
        ({"times": 2, "hits": "5..9"}, [5, 6]),
        ({"p": 0.0}, []),
        ({"p": 1}, list(ALL)),
        ({"match": {"value": 4}}, [4]),
        ({"match": '{"value": "[12]"}'}, [1, 2]),
        ({"match": {"0": 4}}, [4]),
        ({"match": {"value": 11}}, []),
    ],
)
async def test_it_acts_on_the_calls_that_the_conditions_name(
    controller: Controller, target: LaunchedTarget, trigger: dict[str, Any], dropped: list[int]
) -> None:
    await target.do("import workshop")
    async with controller.arm(
        "call.drop", process="bench", params={"site": "work"}, trigger=trigger
    ) as fault:
        assert await target.ask("[n for n in range(1, 11) if workshop.work(n) is None]") == dropped
        assert fault.status().hits == len(dropped)
        assert fault.status().calls == (len(ALL) if "match" not in trigger else len(dropped))


async def test_the_same_seed_acts_on_the_same_calls(controller: Controller, target: LaunchedTarget) -> None:
    await target.do("import workshop")
    hits = []
    for seed in (7, 7, 8):
        trigger = {"p": 0.3, "seed": seed}
        async with controller.arm("call.drop", process="bench", params={"site": "work"}, trigger=trigger):
            hits.append(await target.ask("[n for n in range(100) if workshop.work(n) is None]"))
    assert hits[0] == hits[1] != hits[2]
    assert 10 < len(hits[0]) < 60


async def test_keyword_and_method_arguments_match_by_name(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    params = {"site": "workshop:device_work"}
    async with controller.arm(
        "call.drop", process="bench", params=params, trigger={"match": {"device": 1, "name": "a|b"}}
    ):
        assert await target.ask("workshop.device_work(1, name='b')") is None
        assert await target.ask("workshop.device_work(device=1, name='a')") is None
        assert await target.ask("workshop.device_work(1, 'c')") == "c on 1"
        assert await target.ask("workshop.device_work(2, 'a')") == "a on 2"
    async with controller.arm(
        "call.drop", process="bench", params={"site": "workshop:Machine.run"}, trigger={"match": {"value": 5}}
    ):
        assert await target.ask("workshop.Machine('m').run(5)") is None
        assert await target.ask("workshop.Machine('m').run(6)") == "m 6"


async def test_an_argument_that_cannot_be_compared_is_no_match_and_no_error(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop\nclass Odd:\n    def __eq__(self, other): raise ValueError\nodd = Odd()")
    async with controller.arm(
        "call.drop", process="bench", params={"site": "work"}, trigger={"match": {"value": "x"}}
    ):
        assert await target.ask("workshop.work(odd) is odd")


async def test_an_argument_that_the_site_does_not_have_is_refused(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    with pytest.raises(BadTrigger, match="did you mean device"):
        await controller.arm(
            "call.drop",
            process="bench",
            params={"site": "workshop:device_work"},
            trigger={"match": {"devise": 1}},
        ).arm()


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ({"onhit": 3}, "did you mean on_hit"),
        ({"on_hit": 0}, "on_hit=3"),
        ({"on_hit": "x"}, "on_hit=3"),
        ({"hits": "5..3"}, r"hits=3\.\.5"),
        ({"hits": 3}, r"hits=3\.\.5"),
        ({"p": 1.5}, "0 to 1"),
        ({"p": True}, "0 to 1"),
        ({"times": -1}, "times=1"),
        ({"seed": 1}, "seed needs p"),
        ({"match": "x"}, "match="),
        ({"on_hit": 1, "hits": "1..2"}, "exclude each other"),
    ],
)
async def test_a_condition_that_makes_no_sense_is_refused_before_any_process_hears_of_it(
    controller: Controller, trigger: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadTrigger, match=says):
        controller.arm("call.drop", params={"site": "work"}, trigger=trigger)


async def test_a_fault_that_is_not_called_takes_no_trigger(controller: Controller) -> None:
    with pytest.raises(BadTrigger, match="takes no trigger"):
        controller.arm("gil.hold", trigger={"on_hit": 1})
