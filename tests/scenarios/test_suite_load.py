"""Suites: rows times targets, expectations, controls, selection."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios import suite as suites
from scenarios.errors import Malformed, UnknownName

ROW = """
[suite]
name = "s"
targets = ["tiny-loop.toml", "tiny-child.toml"]

[[row]]
name = "gil.hold"
fault = "gil.hold"
process = "registry"
traffic = { call = "keep" }
expect = { tiny-loop = "dark", "*" = "lit" }
controls = ["tiny-loop"]
"""


@pytest.fixture
def load(servers: Path, tmp_path: Path):  # type: ignore[no-untyped-def]  # a fixture that is a function
    def load(text: str) -> tuple[suites.Scenario, ...]:
        path = tmp_path / "s.toml"
        for name in ("loop", "child"):
            text = text.replace(f'"tiny-{name}.toml"', f'"{servers}/tiny-{name}.toml"')
        path.write_text(text)
        return suites.load(path)[1]

    return load


def test_a_row_becomes_a_scenario_on_each_target(load) -> None:  # type: ignore[no-untyped-def]
    assert [(s.name, s.expected) for s in load(ROW)] == [
        ("gil.hold@tiny-loop", "dark"),
        ("gil.hold@tiny-child", "lit"),
    ]


def test_a_wedge_that_must_stay_lit_has_the_row_s_controls(load) -> None:  # type: ignore[no-untyped-def]
    dark, lit = load(ROW)
    assert (dark.controls, lit.controls) == ((), ("gil.hold@tiny-loop",))


def test_a_row_without_controls_must_say_why(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed, match="say `because` there is none"):
        load(ROW.replace('controls = ["tiny-loop"]', ""))


def test_a_row_that_expects_nothing_of_a_target_is_refused_at_its_line(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed, match="nothing is expected of target tiny-child") as raised:
        load(ROW.replace(', "*" = "lit"', ""))
    assert raised.value.line == 11


def test_a_row_whose_call_the_target_has_not_is_refused_with_the_nearest(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed, match="did you mean keep"):
        load(ROW.replace('"keep"', '"kepe"'))


def test_a_row_whose_site_the_target_has_not_does_not_apply(load) -> None:  # type: ignore[no-untyped-def]
    assert (
        load(ROW.replace('fault = "gil.hold"', 'fault = "call.stall"\nparams = { site = "nowhere" }')) == ()
    )


def test_a_misspelt_key_is_told_with_its_line(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed, match="did you mean controls") as raised:
        load(ROW.replace("controls =", "control ="))
    assert raised.value.line == 12


def test_globs_select_and_a_pattern_that_matches_nothing_is_refused(load) -> None:  # type: ignore[no-untyped-def]
    scenarios = load(ROW)
    assert suites.select(scenarios, ["*@tiny-loop"]) == scenarios[:1]
    with pytest.raises(UnknownName, match=r"did you mean gil.hold@tiny-loop"):
        suites.select(scenarios, ["gil.hold@tiny-lop"])


def test_the_default_suite_has_every_row_of_the_design_on_every_placement() -> None:
    _, scenarios = suites.load(suites.find(suites.DEFAULT))
    expected = {scenario.name: (scenario.expected, scenario.after) for scenario in scenarios}
    table = {
        "noop": "lit lit lit lit",
        "call.stall-released": "dark dark lit lit",
        "call.stall-held": "dark dark dark lit",
        "gil.hold": "dark dark dark lit",
        "process.stop": "dark dark dark lit",
        "process.kill": "dark dark dark lit",
        "call.drop": "lit lit lit lit",
    }
    for row, lights in table.items():
        for placement, light in zip(("inline", "pool", "thread", "process"), lights.split(), strict=True):
            assert expected[f"{row}@pegaref-{placement}"][0] == light
    assert expected["call.stall-released-1@pegaref-pool"][0] == "lit"
    assert expected["process.kill@pegaref-process"] == ("lit", "respawns")
    assert expected["process.kill@pegaref-thread"] == ("dark", "gone")


def test_every_wedge_of_the_default_suite_that_stays_lit_has_a_control_that_is_in_it() -> None:
    _, scenarios = suites.load(suites.find(suites.DEFAULT))
    dark = {scenario.name for scenario in scenarios if scenario.expected == "dark"}
    wedges = [s for s in scenarios if s.expected == "lit" and s.row.name not in ("noop", "call.drop")]
    assert wedges
    for scenario in wedges:
        assert scenario.controls
        assert set(scenario.controls) <= dark
