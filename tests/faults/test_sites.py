"""A site is any Python callable: it is found, broken, and restored by identity."""

from __future__ import annotations

import asyncio

import pytest

from faults import Controller, State, UnknownSite
from tests.faults.bench import LaunchedTarget, launched, until


@pytest.mark.parametrize(
    ("site", "call", "value", "kept"),
    [
        ("workshop:work", "workshop.work(1)", 1, "workshop.work"),
        ("workshop:Machine.run", "workshop.Machine('m').run(1)", "m 1", "vars(workshop.Machine)['run']"),
        ("workshop:Machine.run", "workshop.BigMachine('m').run(1)", "m 1", "vars(workshop.Machine)['run']"),
        ("workshop:Machine.measure", "workshop.Machine.measure(1)", 1, "vars(workshop.Machine)['measure']"),
        ("workshop:Machine.measure", "workshop.Machine('m').measure(1)", 1,
         "vars(workshop.Machine)['measure']"),
        ("workshop:Machine.build", "workshop.BigMachine.build('b').name", "b",
         "vars(workshop.Machine)['build']"),
        ("workshop:Machine.run_async", "asyncio.run(workshop.Machine('m').run_async(1))", "m 1",
         "vars(workshop.Machine)['run_async']"),
        ("time:perf_counter", "time.perf_counter() > 0", True, "time.perf_counter"),
        ("textwrap:TextWrapper.wrap", "textwrap.wrap('a b', 1)", ["a", "b"],
         "vars(textwrap.TextWrapper)['wrap']"),
    ],
)  # fmt: skip
async def test_calls_pass_through_a_delay_unchanged_and_the_original_comes_back(
    controller: Controller, target: LaunchedTarget, site: str, call: str, value: object, kept: str
) -> None:
    await target.do(f"import workshop, asyncio, textwrap, inspect; kept = {kept}")
    code = "getattr(inspect.unwrap(getattr(kept, '__func__', kept)), '__code__', None)"
    await target.do(f"code, signature = {code}, str(inspect.signature({kept}.__get__(0))) if {code} else ''")
    async with controller.arm(
        "call.stall", process="bench", params={"site": site}, trigger={"on_hit": 1}, lease_s=20
    ) as fault:
        stuck = target.start(call)
        await fault.wait_biting(timeout_s=5)
        if site != "time:perf_counter":  # a built-in, which can only be replaced
            assert await target.ask(f"[{kept} is kept, {code} is code]") == [True, False]
            assert await target.ask(f"str(inspect.signature({kept}.__get__(0))) == signature")
        await target.ask(call)
        await fault.release()
        async with asyncio.timeout(5):
            assert await stuck == value
    assert await target.ask(f"[{kept} is kept, {code} is code]") == [True, True]


async def test_an_inherited_method_is_broken_for_the_named_class_alone(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    async with controller.arm("call.drop", process="bench", params={"site": "workshop:BigMachine.run"}):
        assert await target.ask("workshop.BigMachine('b').run(1)") is None
        assert await target.ask("workshop.Machine('m').run(1)") == "m 1"
    assert await target.ask("'run' in vars(workshop.BigMachine)") is False
    assert await target.ask("workshop.BigMachine('b').run(1)") == "b 1"


async def test_other_modules_names_for_the_same_callable_are_broken_too(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop, types; other = types.ModuleType('other'); other.job = workshop.work")
    await target.do("sys.modules['other'] = other")
    async with controller.arm("call.drop", process="bench", params={"site": "work"}):
        assert await target.ask("other.job(1)") is None
        await target.do("from workshop import work as late; other.late = late")
    assert await target.ask("[other.job is workshop.work, other.late is workshop.work]") == [True, True]
    assert await target.ask("other.job(1)") == 1


async def test_a_module_that_is_imported_later_is_broken_then(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("call.drop", process="bench", params={"site": "work"}) as fault:
        assert "not imported yet" in fault.status().evidence[0]
        await target.do("import workshop")
        assert await target.ask("workshop.work(1)") is None
        await fault.wait_biting(timeout_s=5)
    assert await target.ask("workshop.work(1)") == 1
    assert await target.ask("any('_Finder' in str(finder) for finder in sys.meta_path)") is False


async def test_a_module_that_is_never_imported_leaves_no_trace(
    controller: Controller, target: LaunchedTarget
) -> None:
    before = await target.ask("[str(finder) for finder in sys.meta_path]")
    async with controller.arm("call.drop", process="bench", params={"site": "work"}) as fault:
        assert await target.ask("len(sys.meta_path)") == len(before) + 1
    assert await target.ask("[str(finder) for finder in sys.meta_path]") == before
    assert fault.status().state is State.NEVER_HIT


async def test_a_site_that_a_later_import_does_not_bring_fails_the_fault(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("call.drop", process="bench", params={"site": "workshop:wrok"}) as fault:
        await target.do("import workshop")
        await until(lambda: fault.status().state.over)
        assert fault.status().state is State.FAILED
        with pytest.raises(UnknownSite, match="did you mean work"):
            await fault.wait_biting(timeout_s=5)


async def test_a_built_in_module_that_is_imported_later_is_broken_then(
    controller: Controller, target: LaunchedTarget
) -> None:
    assert (
        await target.ask("'_crypt' in sys.modules or 'audioop' in sys.modules or 'xxsubtype' in sys.modules")
        is False
    )
    async with controller.arm("call.drop", process="bench", params={"site": "xxsubtype:bench"}):
        await target.do("import xxsubtype")
        assert await target.ask("xxsubtype.bench(list, 'append')") is None
    assert await target.ask("xxsubtype.bench(list, 'append') is None") is False


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("workshop:wrok", "did you mean work"),
        ("workshop:Machine.rnu", "did you mean run"),
        ("workshop:Machin.run", "did you mean Machine"),
        ("workshop:Machine", "did you mean Machine.__init__"),
        ("workshop:Machine.size", "int, which cannot be called"),
        ("workshop:made.append", "an object"),
        ("wrokshop:work", "did you mean workshop"),
        ("json.tol:main", "did you mean json.tool"),
        ("json.tool.deep:main", "not a package"),
        ("builtins:dict.get", "cannot be replaced"),
        ("__main__:device_work", r"workbench.py\); did you mean workshop:device_work"),
        ("workbench:nothing", "has no 'nothing'"),
        ("workshop:Machine.__new__", "did you mean Machine.__init__"),
        ("workshop", "neither module:qualname"),
        ("workshop:", "not of the form"),
    ],
)
async def test_a_site_that_names_nothing_is_refused_with_the_nearest_name(
    controller: Controller, target: LaunchedTarget, site: str, says: str
) -> None:
    await target.do("import workshop")
    before = await target.ask("len(os.listdir('/proc/self/fd'))")
    with pytest.raises(UnknownSite, match=says):
        async with controller.arm("call.stall", process="bench", params={"site": site}):
            raise AssertionError("it was armed")
    assert controller.faults() == ()
    assert await target.ask("len(os.listdir('/proc/self/fd'))") == before


async def test_what_somebody_else_replaced_meanwhile_is_left_alone_and_told(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop\ndef theirs(value): return 'theirs'")
    async with controller.arm("call.drop", process="bench", params={"site": "work"}) as fault:
        await target.do("workshop.work = theirs")
        await fault.release()
    assert "replaced by somebody else" in " ".join(fault.status().evidence)
    assert await target.ask("workshop.work(1)") == "theirs"


async def test_arming_is_all_or_nothing(controller: Controller, target: LaunchedTarget) -> None:
    async with launched(controller) as second:
        await target.do("import workshop; kept = workshop.work")
        await second.do("import workshop; del workshop.work")
        await until(lambda: len(controller.processes()) == 2)
        with pytest.raises(UnknownSite):
            await controller.arm("call.drop", process="bench", params={"site": "work"}).arm()
        assert await target.ask("workshop.work is kept")


async def test_calls_that_go_past_a_site_are_said_before_anything_is_hit(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do(
        "import workshop, time\nclass Other(workshop.Machine):\n def run(self, value=0): return value"
    )
    await target.do("kept = [time.perf_counter]")
    async with controller.arm(
        "call.count", process="bench", params={"site": "workshop:Machine.run"}
    ) as fault:
        assert await target.ask("Other().run(3)") == 3
        assert fault.status().calls == 0
        assert "Machine.run is overridden by Other" in fault.status().evidence[0]
    async with controller.arm("call.count", process="bench", params={"site": "time:perf_counter"}) as fault:
        await target.ask("kept[0]()")
        assert fault.status().calls == 0
        assert "calls by who holds it in a list are out of reach" in " ".join(fault.status().evidence)


async def test_what_the_agent_itself_calls_is_no_call_of_the_program(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "json:loads"}) as fault:
        async with controller.arm("noop", process="bench") as other:  # for which the agent reads JSON
            await other.wait_biting(timeout_s=5)
        assert fault.status().calls == 0


async def test_who_pickles_the_code_of_a_function_meanwhile_gets_one_without_the_fault(
    controller: Controller, target: LaunchedTarget
) -> None:
    pytest.importorskip("cloudpickle")
    await target.do("import workshop, cloudpickle, pickle; cloudpickle.register_pickle_by_value(workshop)")
    async with controller.arm("call.drop", process="bench", params={"site": "work"}):
        assert await target.ask("workshop.work(1)") is None
        assert await target.ask("pickle.loads(pickle.dumps(workshop.work)) is workshop.work")
        await target.do("pickled = cloudpickle.dumps(workshop.work)")
    assert await target.ask("pickle.loads(pickled)(1)") == 1


async def test_a_module_that_is_run_again_is_broken_again(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop, importlib; old = workshop.work")
    async with controller.arm("call.drop", process="bench", params={"site": "work"}):
        await target.do("importlib.reload(workshop)")
        assert await target.ask("workshop.work is old") is False
        assert await target.ask("[workshop.work(1), old(1)]") == [None, None]
    assert await target.ask("[workshop.work(1), old(1)]") == [1, 1]


async def test_a_lazy_module_is_broken_when_it_is_used_and_not_loaded_before(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do(
        "import importlib.util\n"
        "spec = importlib.util.find_spec('workshop')\n"
        "spec.loader = importlib.util.LazyLoader(spec.loader)\n"
        "lazy = sys.modules['workshop'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(lazy)"
    )
    async with controller.arm("call.drop", process="bench", params={"site": "work"}) as fault:
        assert "not imported yet" in fault.status().evidence[0]
        assert await target.ask("type(lazy).__name__") == "_LazyModule"
        assert await target.ask("lazy.work(1)") is None
    assert await target.ask("lazy.work(1)") == 1
