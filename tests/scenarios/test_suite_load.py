"""Suites: rows times targets, expectations, controls, selection."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.errors import CouldNotRun, Malformed, UnknownName
from scenarios.spec import Scenario, suite_file, target_file

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
    def load(text: str) -> tuple[Scenario, ...]:
        path = tmp_path / "s.toml"
        for name in ("loop", "child"):
            text = text.replace(f'"tiny-{name}.toml"', f'"{servers}/tiny-{name}.toml"')
        path.write_text(text)
        return suite_file.load(path)[1]

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


def test_a_misspelt_key_is_told_with_its_line(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed, match="did you mean controls") as raised:
        load(ROW.replace("controls =", "control ="))
    assert raised.value.line == 12


def test_globs_select_and_a_pattern_that_matches_nothing_is_refused(load) -> None:  # type: ignore[no-untyped-def]
    scenarios = load(ROW)
    assert suite_file.select(scenarios, ["*@tiny-loop"]) == scenarios[:1]
    with pytest.raises(UnknownName, match=r"did you mean gil.hold@tiny-loop"):
        suite_file.select(scenarios, ["gil.hold@tiny-lop"])


def test_the_default_suite_has_every_row_of_the_design_on_every_placement() -> None:
    _, scenarios, _ = suite_file.load(suite_file.find(suite_file.DEFAULT))
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


def test_every_row_of_the_default_suite_stands_for_something_and_is_vouched_for() -> None:
    _, scenarios, _ = suite_file.load(suite_file.find(suite_file.DEFAULT))
    assert len(scenarios) >= 60
    dark = {scenario.name for scenario in scenarios if scenario.expected == "dark"}
    for scenario in scenarios:
        assert scenario.row.stands_for or scenario.row.name == "noop"
        assert scenario.row.controls or scenario.row.because
        assert set(scenario.controls) <= dark


BROKEN = {
    "a call that is not there": ('beside = [{ call = "kepe" }]', "beside[0]", "did you mean keep"),
    "too many calls": ('beside = [{ call = "keep", count = 20000 }]', "beside[0].count", "<= 10000"),
    "a call that waits for nothing": (
        'beside = [{ call = "keep", starts = "said" }]',
        "beside",
        'give the row `says` with `when = "eventually"`',
    ),
    "an endpoint that is not there": (
        'says = [{ probe = "http /helth" }]',
        "says[0]",
        "did you mean http /health",
    ),
    "a status that an endpoint cannot say": (
        'says = [{ probe = "grpc health", status = 503 }]',
        "says[0]",
        'a serving status, such as "NOT_SERVING"',
    ),
    "a body where there is none": (
        'says = [{ probe = "grpc health", status = "SERVING", body = "x" }]',
        "says[0]",
        "it has a status and no body",
    ),
    "a regex that is none": ('says = [{ probe = "http /health", body = "(" }]', "says[0]", "is no regex"),
    "a time that is none": (
        'says = [{ probe = "http /health", when = "soon" }]',
        "says[0].when",
        "Invalid enum value 'soon'",
    ),
    "a second fault in no process": (
        'also = [{ fault = "noop", process = "regstry" }]\ntargets = ["tiny-child"]',
        "also[0].process",
        "did you mean registry",
    ),
    "a flap that waits for traffic": (
        'flap = { held_s = 1, free_s = 1 }\nbites = "on-traffic"',
        "flap",
        "every coming must bite by itself",
    ),
    "a flap without an end": ("flap = { held_s = 1 }", "flap", "the key 'free_s' is missing"),
    "an end after which the server goes on": ("stop = { within_s = 5 }", "stop", 'say `after = "gone"`'),
    "an end that takes no time": ("stop = { within_s = 0 }", "stop.within_s", "> 0"),
    "a load of no call": (
        'load = [{ kind = "storm", call = "kepe" }]',
        "load[0]",
        "did you mean keep",
    ),
    "a load of no kind": ('load = [{ kind = "strom" }]', "load[0].kind", "did you mean storm"),
    "a target that is not there": ('targets = ["tiny-chidl"]', "targets", "did you mean tiny-child"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_is_told_with_its_line_its_key_and_the_remedy(load, what: str) -> None:  # type: ignore[no-untyped-def]
    line, key, remedy = BROKEN[what]
    with pytest.raises(Malformed) as raised:
        load(ROW + line + "\n")
    assert raised.value.line == 13
    assert raised.value.key == f"row[0].{key}"
    assert remedy in raised.value.problem


def test_a_row_may_name_a_target_that_the_suite_has_not(load, servers: Path) -> None:  # type: ignore[no-untyped-def]
    further = ROW.replace('targets = ["tiny-loop.toml", "tiny-child.toml"]', 'targets = ["tiny-loop.toml"]')
    rows = further + further[further.index("[[row]]") :].replace(
        'name = "gil.hold"', f'name = "more"\ntargets = ["{servers}/tiny-child.toml"]'
    ).replace("[[row]]\n", '[[row]]\ncontrols_row = "gil.hold"\n')
    assert [s.name for s in load(rows)] == ["gil.hold@tiny-loop", "more@tiny-child"]


def test_a_control_that_is_not_in_the_suite_or_stays_lit_is_refused(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed, match=r"no scenario is named 'gil.hold@tiny-lop'; did you mean"):
        load(ROW.replace('controls = ["tiny-loop"]', 'controls = ["tiny-lop"]'))
    with pytest.raises(Malformed, match=r"gil\.hold@tiny-child is expected to be lit: it proves nothing"):
        load(ROW.replace('controls = ["tiny-loop"]', 'controls = ["tiny-child"]'))


MISSPELT = {
    "a process": ('process = "registry"', 'process = "regstry"', "process", "did you mean registry"),
    "a site": (
        'fault = "gil.hold"',
        'fault = "call.stall"\nparams = { site = "gpuu" }',
        "params",
        "did you mean gpu",
    ),
    "a site that is like nothing": (
        'fault = "gil.hold"',
        'fault = "call.stall"\nparams = { site = "xyzzy" }',
        "params",
        "known are",
    ),
    "the target of an expectation": ("tiny-loop = ", "tiny-lop = ", "expect", "did you mean tiny-loop"),
    "the target of what follows": (
        "controls =",
        'after = { tiny-chld = "gone", "*" = "recovers" }\ncontrols =',
        "after",
        "did you mean tiny-child",
    ),
    "the target of calls": (
        "controls =",
        'calls = { tiny-chld = "error" }\ncontrols =',
        "calls",
        "did you mean tiny-child",
    ),
    "the process of a further fault": (
        "controls =",
        'also = [{ fault = "noop", process = "regstry" }]\ncontrols =',
        "also[0].process",
        "did you mean registry",
    ),
}


@pytest.mark.parametrize("what", MISSPELT)
def test_a_name_that_no_target_of_the_suite_has_is_an_error_with_the_nearest(load, what: str) -> None:  # type: ignore[no-untyped-def]
    before, after, key, says = MISSPELT[what]
    with pytest.raises(Malformed, match=says) as raised:
        load(ROW.replace(before, after))
    assert raised.value.key == f"row[0].{key}"


@pytest.mark.parametrize("given", ["tiny-loop", "tiny-child"])
def test_another_target_in_their_place_makes_no_misspelt_name_right(
    servers: Path, tmp_path: Path, given: str
) -> None:
    path = tmp_path / "s.toml"
    for before, after in (('process = "registry"', 'process = "regstry"'), ("tiny-loop = ", "tiny-lop = ")):
        path.write_text(
            ROW.replace('"tiny-loop.toml", "tiny-child.toml"', f'"{servers}/tiny-loop.toml"').replace(
                before, after
            )
        )
        with pytest.raises(Malformed, match="did you mean"):
            suite_file.load(path, target_file.load(servers / f"{given}.toml"))


def test_a_row_that_one_target_of_the_suite_cannot_have_is_left_out_with_the_reason(
    servers: Path, tmp_path: Path
) -> None:
    lean = (
        (servers / "tiny-child.toml")
        .read_text()
        .replace("tiny-child", "tiny-lean")
        .replace("[sites]\n", "[sites]\nspare = 'gpu:spare'\n")
    )
    (tmp_path / "lean.toml").write_text(lean.replace('"{dir}/', f'"{servers}/'))
    text = ROW.replace('"tiny-loop.toml", "tiny-child.toml"', f'"{servers}/tiny-loop.toml", "lean.toml"')
    text = text.replace('fault = "gil.hold"', 'fault = "call.stall"\nparams = { site = "spare" }')
    path = tmp_path / "s.toml"
    path.write_text(text.replace('controls = ["tiny-loop"]', 'because = "x"'))
    loaded = suite_file.load(path)
    assert [s.name for s in loaded.scenarios] == ["gil.hold@tiny-lean"]
    (left,) = loaded.not_run
    assert (left.name, left.target) == ("gil.hold@tiny-loop", "tiny-loop")
    assert "target tiny-loop has no site named 'spare'" in left.reason
    with pytest.raises(CouldNotRun, match="has no site named 'spare'"):
        suite_file.select(loaded.scenarios, ["gil.hold@tiny-loop"], loaded.not_run)


def test_the_rows_of_others_are_left_out_with_the_reason_when_a_target_is_given() -> None:
    loaded = suite_file.load(
        suite_file.find(suite_file.DEFAULT), target_file.load(target_file.find("pegaref-inline"))
    )
    left = {n.name: n.reason for n in loaded.not_run}
    assert left["registers-1000@pegaref-inline"] == "its row is for pegaref-impatient"
    assert not {s.name for s in loaded.scenarios} & set(left)
    assert suite_file.load(suite_file.find(suite_file.DEFAULT)).not_run == ()


def test_a_suite_for_any_server_leaves_out_what_the_server_has_not(servers: Path) -> None:
    loaded = suite_file.load(suite_file.find(suite_file.ANY), target_file.load(servers / "tiny-loop.toml"))
    assert any("has no process named 'worker'" in left.reason for left in loaded.not_run)


def test_an_expectation_of_the_target_for_a_row_that_is_misspelt_is_an_error(
    servers: Path, tmp_path: Path
) -> None:
    text = (servers / "tiny-loop.toml").read_text().replace('"{dir}/', f'"{servers}/')
    for row, known in (("gil.hlod", False), ("gil.hold", True), ("a-row-of-another-suite", True)):
        (tmp_path / "t.toml").write_text(f'{text}\n[expect]\n"{row}" = "dark"\n')
        if known:
            suite_file.load(suite_file.find(suite_file.ANY), target_file.load(tmp_path / "t.toml"))
        else:
            with pytest.raises(UnknownName, match=r"did you mean gil\.hold"):
                suite_file.load(suite_file.find(suite_file.ANY), target_file.load(tmp_path / "t.toml"))
