"""What a site, `module:qualname`, names in this process. Nothing is imported or changed to find out.

A name leads to a callable by attributes, from the module, or from the `__main__` that was run in its stead
(`python -m`, a script, the child of multiprocessing's spawn). The same function may be there more than once:
a module is reloaded, or run and imported as well; a class comes out of a pickle that holds its code. Such
copies share the place of their definition, and are found among all objects that the garbage collector knows.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from types import FunctionType, MethodType
from weakref import WeakSet

from .imports import imported, require_findable, source_of
from .protocol import UNKNOWN_SITE, Refused
from .unpatched import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Iterator

_ABSENT = object()
_MAINS = ("__main__", "__mp_main__")
_NAMED = 3

own_functions: WeakSet[FunctionType] = WeakSet()
"""What `calls` has made of other functions, which no site means."""

stand_ins: dict[int, Found] = {}
"""What a callable that `calls` has put somewhere stands for, by its id."""


class Found:
    """A callable of the site. `function` is the one written in Python that its calls run, and `accepts` says
    whether a call of that with these positional arguments is one of the site (None: each is). Without a
    `function` only what stands at `name` of `owner` can be replaced: `raw` there, `original` as it is called.
    """

    __slots__ = ("accepts", "function", "name", "original", "owner", "raw")

    def __init__(
        self,
        function: FunctionType | None,
        accepts: Callable[[tuple[Any, ...]], bool] | None = None,
        *,
        owner: Any = None,
        name: str = "",
        raw: Any = None,
        original: Any = None,
    ) -> None:
        self.function, self.accepts = function, accepts
        self.owner, self.name, self.raw, self.original = owner, name, raw, original


class Site:
    """A site as it was written. Raises Refused for what is none."""

    def __init__(self, text: str, absent: Callable[..., Any] | None) -> None:
        """A method that a class does not have is what `absent` does, if that is given."""
        self.module, colon, self.qualname = text.partition(":")
        if not (colon and self.module and self.qualname):
            raise Refused(UNKNOWN_SITE, "it is not of the form module:qualname")
        self._absent = absent
        self.waits_for_pickle = False  # once nothing else can bring it

    def by_attributes(self, module: Any = None) -> list[Found]:
        """What the name leads to in that module, or in each that it may mean; none while no such module is
        there. Raises Refused when it leads to nothing in any of them.
        """
        found, refusal = [], None
        for one in [module] if module is not None else self._modules():
            try:
                found.append(_resolve(one, self.qualname, self._absent))
            except Refused as refused:
                refusal = refusal or refused
        if refusal is not None and not found:
            raise refusal
        return found

    def find(self) -> list[Found]:
        """All that it names; nothing yet where its module has not been imported, or not come so far.

        Raises Refused where no call can ever reach it.
        """
        comes = self.is_of_main() and self.awaits_main()  # before the rest: it may come in between
        try:
            found = self.by_attributes() or self._by_own_names()
            if not found:
                require_findable(self.module)
        except Refused as refused:
            found = self._by_own_names()
            self.waits_for_pickle = bool(
                self.is_of_main() and unpicklers() and not (found or comes or refused.near)
            )
            if not (found or comes or self.waits_for_pickle):
                raise self._nearest(refused) from None
        return found

    def awaits_main(self) -> bool:
        """Whether `__main__` may define it yet, or has yet to start and may be what is run as this module."""
        return _main_may_define(self.qualname if self.is_of_main() else "")

    def is_of_main(self) -> bool:
        """Whether it means `__main__`, by that name or by the one that it was run as."""
        return self.module in _MAINS or _was_run_as(sys.modules.get("__main__"), self.module)

    def names(self, function: FunctionType) -> bool:
        """Whether that is the name that the function itself says it has."""
        return function.__qualname__ == self.qualname and _same_module(function.__module__, self.module)

    def _modules(self) -> Iterator[Any]:
        module = imported(self.module)
        main = sys.modules.get("__main__")
        if module is not None:
            yield module
        if main is not module and main is not None and _was_run_as(main, self.module):
            yield main

    def _by_own_names(self) -> list[Found]:
        """Functions that say they have that name, though no module has them; not those inside a decorator's,
        which has taken the name over.
        """
        named = [function for function in functions(self.qualname) if self.names(function)]
        inner = {id(inside) for function in named for inside in _wrapped_by(function)}
        return [Found(function) for function in named if id(function) not in inner]

    def _nearest(self, refused: Refused) -> Refused:
        """The refusal, with the sites that a function of that name really has."""
        message, near = refused.message, refused.near
        called_so = functions(self.qualname)
        there = sorted({f"{found.__module__}:{found.__qualname__}" for found in called_so})[:_NAMED]
        if self.module in _MAINS:
            ran = getattr(sys.modules.get("__main__"), "__file__", None) or "no file"
            message += f" (the program that runs here is {ran})"
            near = [*there, *near]
            if not near:
                message += "; name the module that it is imported as"
        return Refused(refused.kind, message, near or there)


def _same_module(one: str, other: str) -> bool:
    return one == other or (one in _MAINS and other in _MAINS)


def functions(qualname: str) -> list[FunctionType]:
    """Every function in the process that says it has that name."""
    found = [one for one in gc.get_objects() if type(one) is FunctionType and one.__qualname__ == qualname]
    return [function for function in found if function not in own_functions]


def unpicklers() -> list[FunctionType]:
    """What completes a function that comes out of a pickle which holds its code: cloudpickle's, or that of a
    package that has a copy of it (Ray, joblib).
    """
    found = [names.get("_function_setstate") for names in _of_modules()]
    return [one for one in found if type(one) is FunctionType]


def copies(function: FunctionType) -> list[FunctionType]:
    """The other functions that came of the same definition, run again; they are called as it is."""
    if "<locals>" in function.__qualname__:
        return []  # one definition makes many there, and they are not one another's copies
    named = functions(function.__qualname__)
    return [other for other in named if other is not function and _is_copy(other, function)]


def _is_copy(other: FunctionType, function: FunctionType) -> bool:
    mine, its = function.__code__, other.__code__
    if (its.co_name, its.co_firstlineno) != (mine.co_name, mine.co_firstlineno):
        return False
    if its.co_filename != mine.co_filename:  # cloudpickle calls it <dynamic-code>
        return its.co_filename.startswith("<") and its.co_code == mine.co_code
    if _same_module(other.__module__, function.__module__):
        return True
    # Under another module's name: the module was run twice. A decorator's function is in many by right.
    own = mine.co_name == function.__qualname__.rpartition(".")[2]
    return own and not mine.co_filename.startswith("<")


def remarks(found: Found) -> list[str]:
    """What a person should know of calls that go past a site."""
    said = []
    if found.function is not None and inspect.isclass(found.owner):
        overriding = [sub.__qualname__ for sub in _subclasses(found.owner) if found.name in vars(sub)]
        if overriding:
            said.append(
                f"{found.owner.__qualname__}.{found.name} is overridden by {_some(overriding)}: a call of "
                "those reaches the site through super() alone"
            )
    elif found.function is None:
        holding = _holders(found.original)
        if holding:
            said.append(
                f"{found.name} is not written in Python, so it is replaced by name: calls by who holds it in "
                f"{_some(holding)} are out of reach"
            )
    others = _other_interpreters()
    if others:
        said.append(f"{others} sub-interpreters run beside the main one: their calls are out of reach")
    return said


def namespaces(value: object) -> list[dict[str, Any]]:
    """Every namespace of a module that has the object in it, also of modules that nobody can import."""
    held = [names for names in gc.get_referrers(value) if type(names) is dict and _is_namespace(names)]
    unique = {id(names): names for names in [*_of_modules(), *held]}
    return [names for names in unique.values() if any(one is value for one in list(names.values()))]


def _of_modules() -> Iterator[dict[str, Any]]:
    """The names of every module; one that is loaded when it is first looked into is not."""
    for module in list(sys.modules.values()):
        with suppress(AttributeError):
            names = object.__getattribute__(module, "__dict__")
            if isinstance(names, dict):
                yield names


def _is_namespace(held: dict[Any, Any]) -> bool:
    return "__builtins__" in held or ("__name__" in held and "__spec__" in held)


def _holders(value: object) -> list[str]:
    """What else holds a callable: the kinds of containers, without names in modules and classes."""
    kinds = ("cell", "partial", "tuple", "list", "set", "dict", "method")
    return [
        f"a {type(held).__name__}"
        for held in gc.get_referrers(value)
        if type(held).__name__ in kinds
        and not (type(held) is dict and (_is_namespace(held) or "__module__" in held))
    ]


def _some(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = [f"{len(unique) - _NAMED} more"] if len(unique) > _NAMED else []
    return " and ".join(filter(None, [", ".join(unique[:_NAMED]), *more]))


def _subclasses(owner: type) -> Iterator[type]:
    subs: list[type] = type.__subclasses__(owner)
    for sub in subs:
        yield sub
        yield from _subclasses(sub)


def _other_interpreters() -> int:
    """How many there are, as far as the module that makes them is loaded."""
    module = sys.modules.get("_interpreters") or sys.modules.get("_xxsubinterpreters")
    try:
        return len(module.list_all()) - 1 if module is not None else 0
    except Exception:  # noqa: BLE001  # a private module, whose functions may change
        return 0


def _wrapped_by(function: Any) -> Iterator[Any]:
    seen = set()
    while id(function) not in seen:
        seen.add(id(function))
        function = vars(function).get("__wrapped__", function) if hasattr(function, "__dict__") else function
        yield from [function] * (id(function) not in seen)


def _was_run_as(main: Any, name: str) -> bool:
    """Whether `__main__` was run in the stead of module `name`."""
    if getattr(getattr(main, "__spec__", None), "name", None) == name:
        return True
    file = getattr(main, "__file__", None)
    if not file or name in _MAINS:
        return False
    try:
        source = source_of(name)
    except Refused:
        return False
    return source is not None and os.path.realpath(file) == os.path.realpath(source)


def _main_may_define(qualname: str) -> bool:
    """Whether `__main__` has not come so far yet: it starts, or its statements have this name in them, or
    multiprocessing has yet to make it.
    """
    main: Any = sys.modules.get("__main__")
    # Once multiprocessing has made it, that is its name; while it is run, a `__mp_main__` is there besides.
    if getattr(main, "__name__", None) != "__mp_main__" and _is_of_multiprocessing():
        return True
    own, running = get_ident(), False
    for ident, frame in list(sys._current_frames().items()):
        for outer in _outwards(frame) if ident != own else ():
            running = True
            if outer.f_code.co_name == "<module>" and outer.f_globals is main.__dict__:
                return qualname.partition(".")[0] in outer.f_code.co_names
            if outer.f_back is None and outer.f_globals.get("__name__") in ("site", "runpy"):
                return True
    return not running  # nothing runs yet: its source is read


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_of_multiprocessing() -> bool:
    try:
        with open("/proc/self/cmdline", "rb") as line:
            told = line.read()
    except OSError:
        return False
    return b"--multiprocessing-fork" in told or b"from multiprocessing.forkserver" in told


def _resolve(module: Any, qualname: str, absent: Callable[..., Any] | None) -> Found:
    """What a name leads to from a module. Raises Refused."""
    *path, name = qualname.split(".")
    owner = module
    for at, part in enumerate(path):
        owner = _attribute(owner, part, ".".join([module.__name__, *path[:at]]))
    if absent is not None:
        if not inspect.isclass(owner):
            raise Refused(UNKNOWN_SITE, f"{'.'.join(path)} is no class")
        if not hasattr(owner, name):
            return Found(None, owner=owner, name=name, raw=absent, original=absent)
    raw = _attribute(owner, name, ".".join([module.__name__, *path]))
    if not (inspect.isclass(owner) or inspect.ismodule(owner)):
        raise Refused(UNKNOWN_SITE, f"{'.'.join(path)} is an object; a site's owner is a module or a class")
    if inspect.isclass(raw):
        near = [f"{qualname}.__init__"]
        raise Refused(UNKNOWN_SITE, f"{qualname} is a class; name one of its methods", near)
    if not inspect.isclass(owner):
        return _held_by_module(module, name, raw, qualname)
    raw = next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), raw)
    return _held_by_class(owner, name, raw, qualname)


def _held_by_module(module: Any, name: str, held: Any, qualname: str) -> Found:
    if id(held) in stand_ins:
        return stand_ins[id(held)]
    if type(held) is FunctionType:
        return Found(held, owner=module, name=name)
    if type(held) is MethodType and type(held.__func__) is FunctionType:
        return Found(held.__func__, _is_first(held.__self__), owner=module, name=name)
    called = inspect.getattr_static(type(held), "__call__", None)
    if type(called) is FunctionType:  # an object, and whoever holds it calls its class's method
        return Found(called, _is_first(held), owner=module, name=name)
    if not callable(held):
        raise Refused(UNKNOWN_SITE, f"{qualname} is a {type(held).__name__}, which cannot be called")
    return Found(None, owner=module, name=name, raw=held, original=held)


def _held_by_class(owner: type, name: str, raw: Any, qualname: str) -> Found:
    inner = raw
    if isinstance(raw, (staticmethod, classmethod)):
        inner = raw.__func__
    elif isinstance(raw, property):
        inner = raw.fget
    elif type(raw) is getattr(functools, "cached_property", None):
        inner = raw.func
    inherited = name not in vars(owner)
    if id(inner) in stand_ins:
        return (
            Found(None, owner=owner, name=name, raw=raw, original=inner)
            if inherited
            else stand_ins[id(inner)]
        )
    if type(inner) is FunctionType and not (inherited and isinstance(raw, staticmethod)):
        return Found(inner, _is_of(owner) if inherited else None, owner=owner, name=name)
    if raw is vars(object)["__init__"]:
        return Found(None, owner=owner, name=name, raw=raw, original=_init_of_object)
    if raw is vars(object)["__new__"]:
        near = [f"{qualname.rpartition('.')[0]}.__init__"]
        raise Refused(
            UNKNOWN_SITE, f"{qualname} is object's own, which cannot be replaced for one class", near
        )
    plain = isinstance(raw, (staticmethod, classmethod)) or inner is raw
    if not (plain and callable(inner)):
        raise Refused(UNKNOWN_SITE, f"{qualname} is a {type(raw).__name__}, which cannot be called")
    return Found(None, owner=owner, name=name, raw=raw, original=inner)


def _init_of_object(made: Any, *args: Any, **kwargs: Any) -> None:
    """As `object.__init__` does it in a class that has none of its own: what `__new__` takes is no concern of
    it.
    """
    own: Any = type(made).__new__
    if own is object.__new__:
        object.__init__(made, *args, **kwargs)


def _is_first(wanted: object) -> Callable[[tuple[Any, ...]], bool]:
    return lambda args: bool(args) and args[0] is wanted


def _is_of(owner: type) -> Callable[[tuple[Any, ...]], bool]:
    """Whether the first argument is an object of that class, or, for class methods, a class below it."""

    def accepts(args: tuple[Any, ...]) -> bool:
        first = args[0] if args else None
        return owner in type(first).__mro__ or (isinstance(first, type) and owner in first.__mro__)

    return accepts


def _attribute(owner: Any, name: str, where: str) -> Any:
    try:
        return inspect.getattr_static(owner, name)
    except AttributeError:
        found = getattr(owner, name, _ABSENT)  # a module's __getattr__, a metaclass
        if found is not _ABSENT:
            return found
        raise Refused(UNKNOWN_SITE, f"{where} has no {name!r}", get_close_matches(name, dir(owner))) from None
