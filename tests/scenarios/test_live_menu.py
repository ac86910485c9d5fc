"""What a single key can break: just the faults that fit the target, each under a key of its own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from faults import FaultInfo, ParameterInfo, catalogue
from scenarios.live.menu import RESERVED, bar, menu
from scenarios.spec import target_file
from scenarios.spec.target_file import find


def test_no_key_has_two_meanings() -> None:
    keys = [entry.key for entry in menu(catalogue(), target_file.load(find("pegaref-gpu-process")).spec)]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(RESERVED)


def test_calls_are_broken_at_functions_and_finalisers_at_classes() -> None:
    entries = {
        entry.fault.name: entry for entry in menu(catalogue(), target_file.load(find("pegaref-inline")).spec)
    }
    assert set(entries["call.stall"].sites) == {"empty_cache", "reply", "register"}
    assert entries["object.finalizer_stall"].sites == ("tensor",)


def test_a_target_without_sites_offers_no_fault_that_needs_one(servers: Path) -> None:
    target = msgspec.structs.replace(target_file.load(servers / "tiny-loop.toml").spec, sites={})
    names = {entry.fault.name for entry in menu(catalogue(), target)}
    assert "gil.hold" in names
    assert not {name for name in names if name.startswith(("call.", "object."))}


def test_a_gpu_stream_is_offered_only_where_the_target_has_a_gpu() -> None:
    def offered(name: str) -> bool:
        return "u" in {entry.key for entry in menu(catalogue(), target_file.load(find(name)).spec)}

    assert offered("pegaref-gpu-inline")
    assert not offered("pegaref-inline")


def test_what_needs_more_than_a_site_is_left_to_wedge_arm() -> None:
    entries = menu(catalogue(), target_file.load(find("pegaref-inline")).spec)
    assert not [entry for entry in entries if entry.fault.name.startswith("net.")]


def test_a_big_letter_does_the_same_with_the_gil_held() -> None:
    entries = {entry.key: entry for entry in menu(catalogue(), target_file.load(find("pegaref-inline")).spec)}
    assert entries["S"].at("reply") == {"gil": "held", "site": "reply"}
    assert entries["s"].at("reply") == {"site": "reply"}
    assert "s/S stall" in bar(tuple(entries.values()))


def test_the_fault_of_a_plugin_gets_a_key_that_is_free() -> None:
    plugin = FaultInfo("clock.skew", "The clock is wrong.", (), "")
    entries = menu([*catalogue(), plugin], target_file.load(find("pegaref-inline")).spec)
    keys = {entry.fault.name: entry.key for entry in entries}
    assert keys["clock.skew"]
    assert [entry.key for entry in entries].count(keys["clock.skew"]) == 1


def test_a_plugin_that_needs_a_parameter_is_not_offered() -> None:
    wants = ParameterInfo("by", "seconds", None, "how wrong", required=True)
    plugin = FaultInfo("clock.skew", "The clock is wrong.", (wants,), "")
    assert menu([plugin], target_file.load(find("pegaref-inline")).spec) == ()
