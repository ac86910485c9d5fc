"""JUnit XML in the shape that CI services read: `junit-10.xsd` of the Jenkins xUnit plugin, rule by rule."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from msgspec.structs import replace

from scenarios.record import Report, SuiteRecord
from scenarios.report import junit
from tests.scenarios.sample_reports import one_of_each, report, scenario

ATTRIBUTES = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set[str]()),
    "testsuite": (
        {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id"}
        | {"package", "file", "log", "url", "version"},
        {"name", "tests", "failures", "errors"},
    ),
    "properties": (set[str](), set[str]()),
    "property": ({"name", "value"}, {"name", "value"}),
    "testcase": ({"name", "time", "classname", "group"}, {"name"}),
    "failure": ({"type", "message"}, set[str]()),
    "error": ({"type", "message"}, set[str]()),
    "system-out": (set[str](), set[str]()),
    "system-err": (set[str](), set[str]()),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testsuite", "properties", "testcase", "system-out", "system-err"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
}
SUREFIRE_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")


def check(element: ET.Element) -> None:
    """Hold an element and all in it against the schema."""
    allowed, required = ATTRIBUTES[element.tag]
    assert required <= set(element.keys()) <= allowed, element.tag
    assert {child.tag for child in element} <= CHILDREN.get(element.tag, set()), element.tag
    if element.tag in ("testsuite", "testsuites"):
        assert SUREFIRE_TIME.fullmatch(element.get("time", ""))
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(element.get(attribute, "-1")) == len(list(element.iter(tag)))
    for child in element:
        check(child)


def parsed(given: Report) -> ET.Element:
    return ET.fromstring(junit.render(given))


def case(root: ET.Element, name: str) -> ET.Element:
    (found,) = root.findall(f".//testcase[@name='{name}']")
    return found


def test_the_shape_is_the_one_that_ci_services_know() -> None:
    check(parsed(report()))
    check(parsed(report(suite=SuiteRecord(failures=("a control stayed lit",)))))
    check(parsed(Report()))


def test_there_is_a_suite_per_target_and_a_case_per_scenario() -> None:
    root = parsed(report())
    assert [s.get("name") for s in root] == [
        "pegaref-process",
        "pegaref-inline",
        "pegaref-thread",
        "pegaref-pool",
    ]
    assert sorted(str(c.get("name")) for c in root.iter("testcase")) == sorted(s.name for s in one_of_each())
    assert {c.get("classname") for c in root[0].iter("testcase")} == {"pegaref-process"}
    assert case(root, "gil.hold@pegaref-process").get("time") == "5.620"


def test_a_fail_is_a_failure_an_unproven_one_an_error_and_a_pass_neither() -> None:
    root = parsed(report())
    assert [e.tag for e in case(root, "call.stall@pegaref-pool") if e.tag in ("failure", "error")] == [
        "failure"
    ]
    assert [e.tag for e in case(root, "call.drop@pegaref-process") if e.tag in ("failure", "error")] == [
        "error"
    ]
    assert [e.tag for e in case(root, "gil.hold@pegaref-process")] == ["system-out"]


def test_the_text_of_a_failure_has_every_reason_and_how_to_reproduce_it() -> None:
    failure = case(parsed(report()), "call.stall@pegaref-pool").find("failure")
    assert failure is not None
    (given,) = [s for s in one_of_each() if s.verdict == "fail"]
    assert failure.text is not None
    assert failure.text.splitlines() == [*given.reasons, f"reproduce: {given.reproduce}"]
    assert failure.get("message") == given.reasons[0]


def test_the_output_of_a_case_has_the_bite_evidence() -> None:
    out = case(parsed(report()), "gil.hold@pegaref-process").findtext("system-out")
    assert out is not None
    assert "bite evidence: the thread is inside poll(), GIL held" in out.splitlines()
    assert "bite: 1 hit, held 2.81 s" in out.splitlines()


def test_what_the_target_said_is_only_there_where_it_did_not_pass() -> None:
    root = parsed(report())
    assert "gil_held for 1.0 s" in (case(root, "call.stall@pegaref-pool").findtext("system-err") or "")
    assert case(root, "gil.hold@pegaref-process").find("system-err") is None


def test_a_failure_of_the_suite_is_a_failure_that_a_ci_service_shows() -> None:
    root = parsed(report(scenario(), suite=SuiteRecord(failures=("the control x was lit, not dark",))))
    assert root.get("failures") == "1"
    assert case(root, "the control x was lit, not dark").find("failure") is not None


def test_an_empty_run_is_not_a_green_one() -> None:
    assert parsed(Report()).get("failures") == "1"


def test_properties_say_how_and_where_it_ran() -> None:
    found = {p.get("name"): p.get("value") for p in parsed(report(seed=7))[0].iter("property")}
    assert found["seed"] == "7"
    assert found["suite"] == "default"
    assert found["platform"] == "Linux 6.1 x86_64"


@pytest.mark.parametrize(
    "text", ["\x1b[31mred\x1b[0m", "\x00\ufffe", "]]><x/>&amp;", "\"<'>", "\ud800 alone"]
)
def test_text_that_xml_cannot_hold_is_shown_and_never_breaks_the_file(text: str) -> None:
    given = replace(one_of_each()[4], name=text, target=text, reasons=(text,), target_log=(text,))
    root = parsed(report(given))
    check(root)
    (found,) = root.iter("testcase")
    assert found.get("name") == junit._clean(text)
    junit.render(report(given)).encode()
