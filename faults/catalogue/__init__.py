"""The faults that can be armed: one file each, named for the fault, plus those of installed plugins.

A fault's file is sent to the process in which it runs, so it is plain Python 3.8 with nothing but the
standard library. It has

- a docstring: what it does, what a user sees, what it cannot do; its first line is the summary,
- `NAME`: `family.action`,
- `PROOF`: how to see from outside that it bites, a value of `faults.model.Proof`,
- `arm(fault)`: install it, given a `faults.agent.wedge_agent.fault.InjectedFault`; what it returns is called
  to start it,
- `arm_sidecar(fault)`, where something must be done by the sidecar too if the controller dies,
- and, where they differ from the default, `RUNS` ("inside" the target or "outside", in the sidecar),
  `TRIGGERS` (whether conditions on calls make sense), `PARAMETERS` (name: a table of `type`, `default`,
  `help`, `choices`, `required`), and what a judge may want to know of it (`faults.model.FaultInfo`):
  `IS_CONTROL`, `TAKES_CORES`, `ENDS_PROCESS` (true for the proof "gone"), `SITE_KIND` ("function", the
  default where it has a site, or "class"), `NEEDS`.

Plugins name such a module in the entry-point group `faults.catalogue`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from faults.errors import BrokenPlugin, UnknownFault
from faults.model import Definition, FaultInfo, ParameterInfo, Proof

PLUGIN_GROUP = "faults.catalogue"
OLD_PLUGIN_GROUP = "pegaref.faults"
"""The group's former name, in which plugins are found as well."""


def catalogue() -> tuple[FaultInfo, ...]:
    """Every fault that can be armed, by name. Raises BrokenPlugin."""
    return tuple(definition.info for definition in definitions().values())


def fault_info(name: str) -> FaultInfo:
    """What the catalogue says of the fault of that name. Raises UnknownFault with the nearest names."""
    return definition(name).info


def definition(name: str) -> Definition:
    """The fault of that name, with what is sent to where it runs. Raises UnknownFault."""
    known = definitions()
    try:
        return known[name]
    except KeyError:
        raise UnknownFault(name, known) from None


@cache
def definitions() -> dict[str, Definition]:
    """Every fault by name, read once in a process. Raises BrokenPlugin."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    ]
    points = {
        point.value: point
        for group in (OLD_PLUGIN_GROUP, PLUGIN_GROUP)
        for point in entry_points(group=group)
    }  # a plugin for old and new versions may be in both
    for point in points.values():
        try:
            modules.append(point.load())
        except Exception as error:
            raise BrokenPlugin(
                f"plugin {point.name} ({point.value})", f"it cannot be imported: {error}"
            ) from error
    found: dict[str, Definition] = {}
    for module in modules:
        read = _read(module)
        if read.info.name in found:
            raise BrokenPlugin(
                read.info.origin, f"{read.info.name!r} is {found[read.info.name].info.origin}'s name"
            )
        found[read.info.name] = read
    return dict(sorted(found.items()))


def _read(module: ModuleType) -> Definition:
    origin = getattr(module, "__file__", None) or module.__name__
    for needed in ("NAME", "PROOF", "arm"):
        if not hasattr(module, needed):
            raise BrokenPlugin(origin, f"it has no {needed}")
    if not module.__doc__:
        raise BrokenPlugin(origin, "it has no docstring")
    try:
        proof = Proof(module.PROOF)
    except ValueError:
        raise BrokenPlugin(
            origin, f"PROOF is {module.PROOF!r}; it must be one of {', '.join(Proof)}"
        ) from None
    doc = module.__doc__.strip()
    params = tuple(_parameter(origin, *item) for item in getattr(module, "PARAMETERS", {}).items())
    has_site = any(parameter.type == "site" for parameter in params)
    info = FaultInfo(
        name=module.NAME,
        summary=doc.partition("\n")[0],
        params=params,
        doc=doc,
        runs=getattr(module, "RUNS", "inside"),
        triggers=getattr(module, "TRIGGERS", False),
        origin=origin,
        is_control=getattr(module, "IS_CONTROL", False),
        takes_cores=getattr(module, "TAKES_CORES", False),
        ends_process=getattr(module, "ENDS_PROCESS", proof is Proof.GONE),
        site_kind=getattr(module, "SITE_KIND", "function") if has_site else None,
        needs=tuple(getattr(module, "NEEDS", ())),
    )
    in_sidecar = next((name for name in ("arm_sidecar", "arm_beside") if hasattr(module, name)), "")
    return Definition(info, Path(origin).read_text(), proof, in_sidecar)


def _parameter(origin: str, name: str, table: dict[str, Any]) -> ParameterInfo:
    try:
        return ParameterInfo(
            name=name,
            type=table["type"],
            default=table.get("default"),
            help=table["help"],
            choices=tuple(table.get("choices", ())),
            required=table.get("required", False),
        )
    except KeyError as missing:
        raise BrokenPlugin(origin, f"the parameter {name!r} has no {missing}") from None
