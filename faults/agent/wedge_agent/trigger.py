"""Which of the calls that reach a site the fault acts on; decided in the target, call by call.

Conditions are keywords, and all that are given must hold: `match` (arguments), `on_hit` (the n-th call),
`hits` (n to m), `p` with `seed` (a share of the calls, the same calls for the same seed), `times` (at most so
many). Calls are numbered from 1, counting only those whose arguments match.
"""

from __future__ import annotations

import re

from .protocol import BAD_TRIGGER, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class Trigger:
    """One fault's conditions, and its own count of calls and of those acted on."""

    def __init__(self, conditions: dict[str, Any]) -> None:
        self._match = dict(conditions.get("match") or {})
        first, last = conditions.get("hits") or (1, None)
        if "on_hit" in conditions:
            first = last = conditions["on_hit"]
        self._first, self._last = first, last
        self._times = conditions.get("times")
        self._share = conditions.get("p")
        self._draw: Callable[[], float] | None = None
        if self._share is not None:
            from random import Random

            self._draw = Random(conditions.get("seed", 0)).random
        self._names: list[str] = []
        self.calls = 0
        self.acted = 0

    def bind_signature(self, function: object) -> None:
        """Take the names of the positional arguments from what will be called. Raises Refused for an unknown
        one.
        """
        if not self._match:
            return
        from inspect import Parameter, signature

        try:
            parameters = signature(function).parameters.values()  # type: ignore[arg-type]
        except (TypeError, ValueError):  # written in C: only positions can be matched
            return
        self._names = [
            p.name
            for p in parameters
            if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        ]
        takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        known = [p.name for p in parameters]
        for name in self._match:
            if not (name.isdigit() or takes_any or name in known):
                from difflib import get_close_matches

                has = ", ".join(known) or "none"
                message = f"match={name!r}: the site has no argument of that name; it has {has}"
                raise Refused(BAD_TRIGGER, message, get_close_matches(name, known))

    def matches(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments are those that `match` asks for: equal, or, as text, matched by the
        expression.
        """
        for name, wanted in self._match.items():
            if name in kwargs:
                value = kwargs[name]
            else:
                at = int(name) if name.isdigit() else (self._names.index(name) if name in self._names else -1)
                if not 0 <= at < len(args):
                    return False
                value = args[at]
            if not _alike(value, wanted):
                return False
        return True

    def count(self) -> bool:
        """Count one call that matches; True if the fault is to act on it."""
        self.calls += 1
        drawn = self._draw is None or self._draw() < (self._share or 0.0)
        in_range = self._first <= self.calls and (self._last is None or self.calls <= self._last)
        if not (drawn and in_range) or (self._times is not None and self.acted >= self._times):
            return False
        self.acted += 1
        return True


def _alike(value: Any, wanted: Any) -> bool:
    try:
        return bool(value == wanted) or (isinstance(wanted, str) and bool(re.fullmatch(wanted, str(value))))
    except Exception:  # noqa: BLE001  # the argument's own __eq__ or __str__ failed; its caller must not see that
        return False
