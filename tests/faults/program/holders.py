"""A program whose child, made by multiprocessing, holds and calls callables in every way there is.

Run as `python holders.py WAY [FOLDER]`, WAY being spawn or forkserver, FOLDER where cloudpickle lies. The
child says what it holds, {"sites": {kind: site}, "pid": PID}, and for each line of standard input what its
calls gave and what can be learnt of the callables: {"results": …, "looks": …, "codes": …}.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import json
import multiprocessing
import os
import pickle
import sys
from time import sleep
from typing import Any, Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.extend(sys.argv[2:])

import held
from held import by_name

_VALUE = "in the function's own globals"


def of_main() -> str:
    """A function of the program itself."""
    return _VALUE


class OfMain:
    """A class of the program itself."""

    def run(self) -> int:
        """A method."""
        return 31


def run_of_pickle() -> int:
    """A function that comes out of a pickle which holds its code."""
    return 32


def with_default(function: Callable[[], int] = held.in_default) -> int:
    """Calls its default."""
    return function()


def around(function: Callable[[], int]) -> Callable[[], int]:
    """Calls what it closes over."""
    return lambda: function()


def ways() -> dict[str, tuple[str, Callable[[], Any]]]:
    """For each kind its site, and what calls that once."""
    machine, big = held.Machine(), held.Big()
    table, bound, served = {"work": held.in_table}, machine.bound, held.served
    partial = functools.partial(held.in_partial, 3, more=1)
    closure, sized, steps, task, flow = (
        around(held.in_closure),
        type(machine).size,
        held.steps,
        held.task,
        held.flow,
    )
    fget, inherited, alias = sized.fget, big.inherited, held.Machine.alias
    before = sys.modules["held"].other_decorated  # not broken, though its code is
    spec: Any = importlib.util.spec_from_file_location("twice", held.__file__)
    twice = importlib.util.module_from_spec(spec)  # of a module that nobody else can import
    spec.loader.exec_module(twice)
    before_reload = twice.before_reload
    spec.loader.exec_module(twice)

    async def flows() -> list[int]:
        return [value async for value in flow(40)]

    def both() -> int:
        assert before() == 10
        found: int = held.decorated(8, more=1)
        return found

    found = {
        "main": ("__main__:of_main", of_main),
        "main's class": ("__main__:OfMain.run", OfMain().run),
        "imported by name": ("held:by_name", lambda: by_name()),
        "default": ("held:in_default", with_default),
        "closure": ("held:in_closure", closure),
        "partial": ("held:in_partial", partial),
        "table": ("held:in_table", lambda: table["work"]()),
        "singledispatch": ("held:registered", lambda: held.generic(object())),
        "inside a cache": ("held:cached_inside", lambda: (held.cached.cache_clear(), held.cached())[1]),
        "a cache": (
            "held:cached_outside",
            lambda: (held.cached_outside.cache_clear(), held.cached_outside())[1],
        ),
        "decorated": ("held:decorated", both),
        "bound method": ("held:Machine.bound", bound),
        "super": ("held:Machine.through_super", big.through_super),
        "class method": ("held:Machine.of_class", big.of_class),
        "static method": ("held:Machine.of_none", lambda: big.of_none(23)),
        "property": ("held:Machine.size", lambda: fget(machine)),
        "cached property": ("held:Machine.once", lambda: (vars(machine).pop("once", 0), machine.once)[1]),
        "slot": ("held:Machine.__getitem__", lambda: machine[26]),
        "object": ("held:served", lambda: (machine(), served())[1]),
        "inherited": ("held:Big.inherited", lambda: (machine.inherited(), inherited())[1]),
        "alias": ("held:Machine.alias", lambda: alias(machine)),
        "metaclass": ("held:Meta.__call__", lambda: type(held.Made()).__name__),
        "no __init__": ("held:Fixed.__init__", lambda: held.Fixed(33).value),
        "coroutine": ("held:task", lambda: asyncio.run(task(34))),
        "generator": ("held:steps", lambda: list(steps(35))),
        "async generator": ("held:flow", lambda: asyncio.run(flows())),
        "not importable": ("twice:in_copy", lambda: twice.in_copy()),
        "reloaded": ("twice:before_reload", before_reload),
        "parameters": ("held:takes_all", lambda: held.takes_all(1, 2, 3, named=4, value=5, self=6)),
        "written in C": ("time:sleep", lambda: sleep(0)),
    }
    if "by_value" in globals():
        # As Ray and loky give a class or a function to a worker: it is made anew from its code.
        function, kind = (pickle.loads(pickled) for pickled in globals()["by_value"][:2])
        found["by value"] = ("__main__:run_of_pickle", function)
        found["class by value"] = ("__main__:ByValue.run", kind().run)
        later = globals()["by_value"][2]
        found["by value, later"] = ("__main__:later", lambda: pickle.loads(later)())
    return found


def looks(functions: list[Any]) -> list[str]:
    """What can be learnt of functions without a call."""
    asked = (
        inspect.signature,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    )
    return [
        f"{[str(ask(one)) for ask in asked]} {one.__name__} {one.__qualname__} {one.__defaults__} "
        f"{inspect.getsource(one)[:40]} {one.__code__.co_freevars} {hash(pickle.dumps(one)) != 0}"
        for one in functions
    ]


def hold(orders: Any, answers: Any, by_value: list[bytes]) -> None:
    """Be the child, until the other end of `orders` is closed."""
    if by_value:
        globals()["by_value"] = by_value
    found = ways()
    functions = [
        held.takes_all,
        held.by_name,
        held.in_partial,
        held.task,
        held.steps,
        held.flow,
        held.decorated,
        held.Machine.through_super,
    ]
    codes = [one.__code__ for one in functions]
    answers.send({"sites": {kind: site for kind, (site, _) in found.items()}, "pid": os.getpid()})
    while True:
        try:
            orders.recv()
        except EOFError:
            return
        results = {kind: call() for kind, (_, call) in found.items()}
        ours = [one.__code__ is code for one, code in zip(functions, codes)]
        answers.send({"results": results, "looks": looks(functions), "codes": ours})


def pickles() -> list[bytes]:
    """A function, a class and another function as pickles that hold their code; none without cloudpickle."""
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return []
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("class ByValue:\n def run(self): return 36\ndef later(): return 37", names)
    made = [cloudpickle.dumps(one) for one in (run_of_pickle, names["ByValue"], names["later"])]
    return made


def main(way: str) -> None:
    """Start the child and speak for it."""
    context: Any = multiprocessing.get_context(way)
    orders, to_child = context.Pipe(duplex=False)
    from_child, answers = context.Pipe(duplex=False)
    child = context.Process(target=hold, args=(orders, answers, pickles()))
    child.start()
    orders.close()
    answers.close()
    print(json.dumps(from_child.recv()), flush=True)
    for _ in sys.stdin:
        to_child.send("call")
        print(json.dumps(from_child.recv()), flush=True)
    to_child.close()
    child.join()


if __name__ == "__main__":
    main(sys.argv[1])
