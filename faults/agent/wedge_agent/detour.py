"""Code that stands in for a function's own, so that whoever holds the function calls something else.

A function may be held anywhere: imported by name, captured in a closure or a default, kept in a table or a C
object, bound to an instance. All of them hold the same object, and each call of it runs its `__code__`. A
detour has the same parameters, free variables, name and kind (a coroutine function stays one), so what can be
learnt of the function without a call stays as it was.
"""

from __future__ import annotations

import sys
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIADIC, KEYWORDS, GENERATOR, COROUTINE, ITERABLE_COROUTINE, ASYNC_GENERATOR = (
    0x04, 0x08, 0x20, 0x80, 0x100, 0x200,
)  # fmt: skip
"""Flags of a code object (inspect.CO_*)."""

_STANDS_FOR = "wedge: what is called instead"


def detour(code: CodeType, through: object) -> CodeType:
    """Code that calls `through.run(…)` with all arguments of a call, each default filled in, by position
    where it may be; what a coroutine function or a generator does with it is awaited, or iterated over.

    For an async generator `run` gives an `AsyncSteps`.
    """
    names = list(code.co_varnames)
    positional, keyword_only = code.co_argcount, code.co_kwonlyargcount
    declared = [f"p{n}" for n in range(positional)]
    if code.co_posonlyargcount:
        declared.insert(code.co_posonlyargcount, "/")
    passed = [f"p{n}" for n in range(positional)]
    at = positional + keyword_only
    if code.co_flags & VARIADIC:
        declared.append(f"*p{at}")
        passed.append(f"*p{at}")
        at += 1
    elif keyword_only:
        declared.append("*")
    declared += [f"p{n}" for n in range(positional, positional + keyword_only)]
    by_name = [f"{names[n]!r}: p{n}" for n in range(positional, positional + keyword_only)]
    if code.co_flags & KEYWORDS:
        declared.append(f"**p{at}")
        by_name.append(f"**p{at}")
        at += 1
    call = f"{_STANDS_FOR!r}.run({', '.join(passed + ['**{' + ', '.join(by_name) + '}'] * bool(by_name))})"
    free = [f"c{n:04}" for n in range(len(code.co_freevars))]
    mentioned = f"({', '.join(free)},)" if free else "0"
    define = "async def" if code.co_flags & (COROUTINE | ASYNC_GENERATOR) else "def"
    inner = f"{define} inner({', '.join(declared)}): {_body(code, call, mentioned)}"
    text = f"def outer({', '.join(free)}):\n {inner}"
    outer = _inner(compile(text, code.co_filename, "exec", dont_inherit=True))
    made = _inner(outer)
    kept: dict[str, Any] = {"co_qualname": code.co_qualname} if sys.version_info >= (3, 11) else {}
    own = [f".wedge{n}" for n in range(len(made.co_varnames) - at)]
    return made.replace(
        co_consts=tuple(through if const == _STANDS_FOR else const for const in made.co_consts),
        co_varnames=(*names[:at], *own),
        co_freevars=code.co_freevars,
        co_name=code.co_name,
        co_firstlineno=code.co_firstlineno,
        co_flags=made.co_flags | code.co_flags & ITERABLE_COROUTINE,
        **kept,
    )


def _body(code: CodeType, call: str, mentioned: str) -> str:
    """What follows the colon; `mentioned`, which is never reached, makes the free variables free here too."""
    if code.co_flags & COROUTINE:
        return f"return await {call}; {mentioned}"
    if code.co_flags & GENERATOR:
        return f"return (yield from {call}); {mentioned}"
    if code.co_flags & ASYNC_GENERATOR:
        return f"""
  steps = {call}
  value = await steps.begin()
  while steps.goes_on:
   try: sent = yield value
   except: value = await steps.thrown()
   else: value = await steps.sent(sent)
  return; {mentioned}"""
    return f"return {call}; {mentioned}"


def _inner(code: CodeType) -> CodeType:
    return next(const for const in code.co_consts if isinstance(const, CodeType))


class AsyncSteps:
    """An async generator, one step at a time, for code that must be one itself: `goes_on` until it has ended.

    `begun` is awaited for the generator, at its first step.
    """

    def __init__(self, begun: Any) -> None:
        self.goes_on = True
        self._begun = begun
        self._steps: Any = None

    async def begin(self) -> Any:
        """Its first value."""
        self._steps = await self._begun
        if self._steps is None:  # its call was dropped: there is nothing in it
            self.goes_on = False
            return None
        return await self._step(self._steps.__aiter__().__anext__())

    async def sent(self, value: Any) -> Any:
        """The next value, after `value` was sent."""
        if value is None:
            return await self._step(self._steps.__anext__())
        return await self._step(self._steps.asend(value))

    async def thrown(self) -> Any:
        """The next value, after the exception that is being handled was thrown."""
        error = sys.exc_info()[1]
        if isinstance(error, GeneratorExit):
            await self._steps.aclose()
            raise error
        return await self._step(self._steps.athrow(error))

    async def _step(self, step: Any) -> Any:
        try:
            return await step
        except StopAsyncIteration:
            self.goes_on = False
            return None
