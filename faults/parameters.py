"""Check a fault's parameters and trigger before anything is sent to a process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from faults.errors import BadParameter, BadTrigger, UnknownParameter, UnknownSite, nearest
from faults.model import LEASE_LIMIT_S, FaultInfo, ParameterInfo

TRIGGER_WORDS = ("on_hit", "hits", "times", "p", "seed", "match")


def check(fault: FaultInfo, given: Mapping[str, Any], sites: Mapping[str, str]) -> dict[str, Any]:
    """The fault's parameters, complete and of their types; text, as a command line gives it, is converted.

    Raises UnknownParameter, BadParameter, UnknownSite.
    """
    known = {parameter.name: parameter for parameter in fault.params}
    for name in given:
        if name not in known:
            raise UnknownParameter(fault.name, name, known)
    checked = {}
    for name, parameter in known.items():
        if name in given:
            checked[name] = _convert(fault.name, parameter, given[name], sites)
        elif parameter.required:
            raise UnknownParameter(fault.name, name, known, missing=True)
        else:
            checked[name] = parameter.default
    return checked


def _convert(fault: str, parameter: ParameterInfo, value: Any, sites: Mapping[str, str]) -> Any:
    if parameter.type == "site":
        return resolve_site(str(value), sites)
    if parameter.type == "choice":
        if value not in parameter.choices:
            raise BadParameter(fault, parameter.name, value, " or ".join(parameter.choices))
        return value
    if parameter.type == "json":
        return _json(value)
    read, expected = _READERS[parameter.type]
    try:
        return read(value)
    except (ValueError, TypeError):
        raise BadParameter(fault, parameter.name, value, expected) from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    number = int(value)
    if number < 0:
        raise ValueError(value)
    return number


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number) or number < 0:
        raise ValueError(value)
    return number


def _flag(value: Any) -> bool:
    if str(value).lower() in ("true", "1", "yes", "on"):
        return True
    if str(value).lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(value)


def _seconds(value: Any) -> float:
    number = _number(value)
    if number > LEASE_LIMIT_S:
        raise ValueError(value)
    return number


_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


def _size(value: Any) -> int:
    text = str(value).lower().removesuffix("ib").removesuffix("b")
    if text and text[-1] in _UNITS:
        return int(_number(text[:-1]) * _UNITS[text[-1]])
    return _whole(value)


def _json(value: Any) -> Any:
    """The value itself; text is parsed as JSON if it is valid JSON, since a command line can only pass
    text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(value: Any) -> str:
    return str(value)


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "str": (_text, "text"),
    "int": (_whole, "a whole number, 0 or more"),
    "float": (_number, "a number, 0 or more"),
    "bool": (_flag, "true or false"),
    "seconds": (_seconds, f"seconds, 0 to {LEASE_LIMIT_S:g}"),
    "bytes": (_size, "a size such as 4096, 64k, 100M or 1G"),
}


def resolve_site(site: str, sites: Mapping[str, str]) -> str:
    """The `module:qualname` that a site's name stands for, or the site itself. Raises UnknownSite."""
    if site in sites:
        return sites[site]
    if ":" not in site:
        known = f"the named sites are {', '.join(sites)}" if sites else "no site has a name here"
        raise UnknownSite(
            site, f"it is neither module:qualname nor a site's name ({known})", nearest(site, sites)
        )
    return site


def check_trigger(fault: FaultInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    """The trigger's conditions, of their types; `hits` as a pair, `match` as a table. Raises BadTrigger."""
    if given and not fault.triggers:
        raise BadTrigger(fault.name, "it takes no trigger: it acts once, when it is armed")
    checked: dict[str, Any] = {}
    for word, value in given.items():
        if word not in TRIGGER_WORDS:
            near = nearest(word, TRIGGER_WORDS)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(TRIGGER_WORDS)}"
            raise BadTrigger(fault.name, f"no trigger is called {word!r}; {hint}")
        try:
            checked[word] = _TRIGGERS[word](value)
        except (ValueError, TypeError, AttributeError):
            raise BadTrigger(
                fault.name, f"{word}={value!r} cannot be used; write {_EXAMPLES[word]}"
            ) from None
    if "on_hit" in checked and "hits" in checked:
        raise BadTrigger(fault.name, "on_hit and hits exclude each other; write one of them")
    if "seed" in checked and "p" not in checked:
        raise BadTrigger(fault.name, "seed needs p; write p=0.3 seed=7")
    return checked


def _ordinal(value: Any) -> int:
    number = _whole(value)
    if number < 1:
        raise ValueError(value)
    return number


def _range(value: Any) -> tuple[int, int]:
    first, last = value.split("..") if isinstance(value, str) else value
    first, last = _ordinal(first), _ordinal(last)
    if last < first:
        raise ValueError(value)
    return first, last


def _share(value: Any) -> float:
    share = _number(value)
    if share > 1:
        raise ValueError(value)
    return share


def _table(value: Any) -> dict[str, Any]:
    table = json.loads(value) if isinstance(value, str) else value
    return {str(name): wanted for name, wanted in table.items()}


_TRIGGERS: dict[str, Callable[[Any], Any]] = {
    "on_hit": _ordinal, "hits": _range, "times": _ordinal, "p": _share, "seed": _whole, "match": _table,
}  # fmt: skip
_EXAMPLES = {
    "on_hit": "on_hit=3", "hits": "hits=3..5", "times": "times=1", "p": "p=0.3 (0 to 1)", "seed": "seed=7",
    "match": """match='{"device": 1}', or a regular expression for its text""",
}  # fmt: skip
