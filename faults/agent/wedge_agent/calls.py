"""Put something in the way of a Python callable, whoever calls it, and take it away again.

Of a function written in Python it is the code that is replaced, so that all who hold the function call what
is put there, and the function itself stays who it was. Anything else that can be called (a built-in, an
`lru_cache`, an inherited static method) is replaced by name: on its owner, and wherever a module has imported
it. `sites` finds what a site names, and
`installed` says when.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from types import FunctionType, SimpleNamespace

from .detour import ASYNC_GENERATOR, COROUTINE, GENERATOR, AsyncSteps, detour
from .protocol import UNKNOWN_SITE, Refused
from .sites import namespaces, own_functions, stand_ins
from .unpatched import get_ident, own_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Awaitable, Callable, Optional, Protocol

    from .sites import Found

    Sync = Callable[[Callable[[], Any]], Any]
    Async = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

    class Interceptor(Protocol):
        """The interface through which calls reach a fault."""

        notes: list[str]
        details: dict[str, Any]
        look_again: Callable[[], object] | None

        def count_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            """Count a call; True if the fault is to act on it."""

        def bind_signature(self, function: object) -> None:
            """Learn the names of the arguments of what will be called. Raises Refused."""

        def undo(self, action: Callable[[], object]) -> None:
            """Have `action` called at release."""

        def fail(self, kind: str, message: str, near: list[str] | None = None) -> None:
            """Report, after arming, that the fault cannot work here."""

    Layer = tuple[Interceptor, Sync, Async]
    Accepts = Optional[Callable[[tuple[Any, ...]], bool]]
    Layers = tuple[tuple[Layer, Accepts], ...]

_ABSENT = object()

_codes: dict[int, ReplacedCode] = {}  # by the function's id
_names: dict[tuple[int, str], ReplacedName] = {}  # by the owner's id, and the name there


class Patch:
    """One callable in whose way something is, for as long as at least one fault wants it there.

    Faults on the same callable share it, the last armed outermost, so that they can be released in any order.
    """

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self._layers: Layers = ()
        self._watchers: tuple[Callable[[tuple[Any, ...]], object], ...] = ()

    def add(self, layer: Layer, accepts: Accepts) -> None:
        """Put a fault in the way, and the patch in its place if it is not there yet. Raises Refused."""
        self._layers = (*self._layers, (layer, accepts))
        self._put()

    def remove(self, layer: Layer) -> list[str]:
        """Take one fault out of the way, and with the last of them the patch.

        Returns the names of what somebody else has replaced since, which are left as they are.
        """
        self._layers = tuple(other for other in self._layers if other[0] is not layer)
        return [] if self._layers or self._watchers else self._take_away()

    def watch(self, then: Callable[[tuple[Any, ...]], object]) -> None:
        """Call `then` with the positional arguments of each call that has returned."""
        self._watchers = (*self._watchers, then)
        self._put()

    def unwatch(self, then: Callable[[tuple[Any, ...]], object]) -> None:
        """Call it no more."""
        self._watchers = tuple(other for other in self._watchers if other is not then)
        if not (self._layers or self._watchers):
            self._take_away()

    def _put(self) -> None:
        raise NotImplementedError

    def _take_away(self) -> list[str]:
        raise NotImplementedError

    def _through(self, layers: Layers, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        at = _acting(layers, args, kwargs)
        if at is None:
            return self.original(*args, **kwargs)
        return layers[at][0][1](functools.partial(self._through, layers[:at], args, kwargs))

    async def _through_task(self, layers: Layers, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        at = _acting(layers, args, kwargs)
        if at is None:
            made = self.original(*args, **kwargs)
            return made if inspect.isasyncgen(made) else await made
        return await layers[at][0][2](functools.partial(self._through_task, layers[:at], args, kwargs))

    # What a call is sent to, by the kind of the callable. `self` is no name here that an argument could have.

    def _run(self, /, *args: Any, **kwargs: Any) -> Any:
        result = self._through(self._layers, args, kwargs)
        for then in self._watchers:
            then(args)
        return result

    async def _run_task(self, /, *args: Any, **kwargs: Any) -> Any:
        return await self._through_task(self._layers, args, kwargs)

    def _run_generator(self, /, *args: Any, **kwargs: Any) -> Any:
        made = self._through(self._layers, args, kwargs)
        return None if made is None else (yield from made)

    def _run_async_generator(self, /, *args: Any, **kwargs: Any) -> AsyncSteps:
        return AsyncSteps(self._through_task(self._layers, args, kwargs))


def _acting(layers: Layers, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The outermost fault that acts on a call; each that it comes by counts it. Those of the agent's own
    threads are none of the program's.
    """
    if get_ident() in own_threads:
        return None
    for at in range(len(layers) - 1, -1, -1):
        (fault, _, _), accepts = layers[at]
        if (accepts is None or accepts(args)) and fault.count_call(args, kwargs):
            return at
    return None


class ReplacedCode(Patch):
    """A function whose code is a detour, which calls `run`."""

    @staticmethod
    def of(function: FunctionType) -> ReplacedCode:
        """The patch that the function has already, or a new one that is nowhere yet."""
        return _codes.get(id(function)) or ReplacedCode(function)

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        self._code: CodeType = function.__code__
        self._detour: CodeType | None = None
        original = FunctionType(
            self._code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        original.__kwdefaults__, original.__qualname__ = function.__kwdefaults__, function.__qualname__
        own_functions.add(original)
        super().__init__(original)

    @property
    def run(self) -> Callable[..., Any]:
        """What the detour calls, by the kind of the function."""
        flags = self._code.co_flags
        if flags & COROUTINE:
            return self._run_task
        if flags & ASYNC_GENERATOR:
            return self._run_async_generator
        return self._run_generator if flags & GENERATOR else self._run

    def __reduce__(self) -> Any:
        """Who pickles the code of the function meanwhile gets one that calls the original."""
        return SimpleNamespace, (), {"run": self.original}

    def _put(self) -> None:
        if self._detour is None:
            self._detour = detour(self._code, self)
            _codes[id(self._function)] = self
            self._function.__code__ = self._detour

    def _take_away(self) -> list[str]:
        ours, self._detour = self._detour, None
        _codes.pop(id(self._function), None)
        now = self._function.__code__
        if ours is not None and now is ours:
            self._function.__code__ = self._code
        return (
            []
            if ours is None or now in (ours, self._code)
            else [f"the code of {self._function.__qualname__}"]
        )


class ReplacedName(Patch):
    """A callable that another one stands in for, wherever a module or a class has it by name."""

    @staticmethod
    def at(found: Found) -> ReplacedName:
        """The patch that is there already, or a new one that is nowhere yet."""
        return _names.get((id(found.owner), found.name)) or ReplacedName(found)

    def __init__(self, found: Found) -> None:
        super().__init__(found.original)
        self._found = found
        self._stand_in: Callable[..., Any] | None = None
        self._before: Any = _ABSENT
        self._attribute: Any = None
        self._spaces: list[tuple[dict[str, Any], str]] = []

    def _made(self) -> Any:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return self._run(*args, **kwargs)

        async def task_stand_in(*args: Any, **kwargs: Any) -> Any:
            return await self._run_task(*args, **kwargs)

        chosen: Any = task_stand_in if inspect.iscoroutinefunction(self.original) else stand_in
        with suppress(AttributeError, TypeError):  # a callable object without the attributes of a function
            functools.update_wrapper(chosen, self.original)
        for name in dir(self.original):  # what else it can do, as `cache_clear`
            if not (name.startswith("__") or hasattr(chosen, name)):
                setattr(chosen, name, getattr(self.original, name))
        return chosen

    def _put(self) -> None:
        if self._stand_in is not None:
            return
        owner, name = self._found.owner, self._found.name
        made = self._made()
        self._before = vars(owner).get(name, _ABSENT)
        self._attribute = _as_attribute(self._found.raw, made) if inspect.isclass(owner) else made
        spaces = [] if inspect.isclass(owner) else namespaces(self.original)
        try:
            setattr(owner, name, self._attribute)
        except (AttributeError, TypeError) as error:
            raise Refused(UNKNOWN_SITE, f"{name} cannot be replaced: {error}") from None
        self._stand_in = made
        _names[id(owner), name] = self
        stand_ins[id(made)] = self._found
        for space in spaces:
            for alias in [alias for alias, held in list(space.items()) if held is self.original]:
                self._spaces.append((space, alias))
                space[alias] = made

    def _take_away(self) -> list[str]:
        if self._stand_in is None:
            return []
        made, self._stand_in = self._stand_in, None
        owner, name, theirs = self._found.owner, self._found.name, []
        _names.pop((id(owner), name), None)
        stand_ins.pop(id(made), None)
        if vars(owner).get(name, _ABSENT) is not self._attribute:
            theirs.append(name)
        elif self._before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, self._before)
        for space, alias in self._spaces:
            if space.get(alias) is not made:
                theirs.append(alias)
        for space in namespaces(made):  # also what was imported by name while it was in place
            for alias in [alias for alias, held in list(space.items()) if held is made]:
                space[alias] = self.original
        self._spaces.clear()
        return theirs


def _as_attribute(raw: Any, made: Callable[..., Any]) -> Any:
    """What to store in a class so that it is bound, or not, as what it replaces was."""
    if isinstance(raw, classmethod):
        return classmethod(made)
    if isinstance(raw, staticmethod) or not hasattr(type(raw), "__get__"):
        return staticmethod(made)
    return made
