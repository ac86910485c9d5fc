"""Callables of every kind, each for one way of holding it."""

from __future__ import annotations

import functools
from typing import Any, AsyncIterator, Callable, Iterator


def by_name() -> int:
    """Imported by name elsewhere."""
    return 1


def in_default() -> int:
    """The default of a parameter."""
    return 2


def in_closure() -> int:
    """Held by a function that was made of it."""
    return 3


def in_partial(value: int, *, more: int = 1) -> int:
    """Held by a `functools.partial`."""
    return value + more


def in_table() -> int:
    """Held in a list and a dict."""
    return 5


def in_copy() -> int:
    """Of a module that is run a second time."""
    return 9


def before_reload() -> int:
    """Held since before its module was run again."""
    return 10


def registered(value: object) -> int:
    """What a generic function does with whatever nobody has registered for."""
    return 6


generic = functools.singledispatch(registered)


def cached_inside() -> int:
    """Held by an `lru_cache`, which is written in C."""
    return 7


cached = functools.lru_cache(maxsize=None)(cached_inside)


@functools.lru_cache(maxsize=None)
def cached_outside() -> int:
    """Itself an `lru_cache`."""
    return 8


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as most are written."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@logged
def decorated(value: int, more: int = 1) -> int:
    """What is called is the decorator's function."""
    return value + more


@logged
def other_decorated() -> int:
    """Has the same code as the one before, as far as the decorator goes."""
    return 10


def takes_all(
    value: int, /, more: int = 1, *rest: int, named: int, other: int = 2, **others: int
) -> list[Any]:
    """Parameters of every kind."""
    return [value, more, rest, named, other, others]


class Machine:
    """Methods of every kind."""

    def bound(self) -> int:
        """Held as a bound method."""
        return 20

    def through_super(self) -> int:
        """Called by the one that overrides it."""
        return 21

    @classmethod
    def of_class(cls) -> str:
        """A class method."""
        return cls.__name__

    @staticmethod
    def of_none(value: int) -> int:
        """A static method."""
        return value

    @property
    def size(self) -> int:
        """A property."""
        return 24

    @functools.cached_property
    def once(self) -> int:
        """Worked out once for each object."""
        return 25

    def __getitem__(self, at: int) -> int:
        return at

    def __call__(self) -> int:
        return 27

    def inherited(self) -> int:
        """Called on the class below."""
        return 28

    def other(self) -> int:
        """Has two names."""
        return 29

    alias = other


class Big(Machine):
    """The class below."""

    def through_super(self) -> int:
        """Overrides."""
        return super().through_super()


class Meta(type):
    """Makes the classes of which it is the class."""

    def __call__(cls, *args: Any) -> Any:
        return super().__call__(*args)


class Made(metaclass=Meta):
    """One of those."""


class Fixed:
    """Takes what it is made of without an `__init__`."""

    def __new__(cls, value: int) -> Fixed:
        made = super().__new__(cls)
        made.value = value  # type: ignore[attr-defined]
        return made


served = Machine()
"""An object that is called, as an application is."""


async def task(value: int) -> int:
    """A coroutine function."""
    return value


def steps(value: int) -> Iterator[int]:
    """A generator function."""
    sent = yield value
    yield sent or 0


async def flow(value: int) -> AsyncIterator[int]:
    """An async generator function."""
    yield value
    yield value + 1
