"""The report as JUnit XML, in the shape that CI services agree on.

The shape is `junit-10.xsd` of the Jenkins xUnit plugin (GitHub's and GitLab's readers take a subset of it):
one test suite per target, one test case per scenario; `failure` is a verdict of fail, `error` of unproven,
`skipped` a scenario that was not run. That schema allows properties only on suites, and GitLab shows the text
of a failure but not its `message`. So the facts of a scenario are text, and a failure's text has all of them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from scenarios.record import Report, ScenarioRecord
from scenarios.report import headline, numbers, summary

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOG_LINES = 100


def render(report: Report) -> str:
    """The XML, with its declaration. What belongs to no scenario is a test suite of its own, `suite`."""
    root = ET.Element("testsuites", {"name": "wedge", "time": _time(report.duration_s)})
    targets = dict.fromkeys([s.target for s in report.scenarios] + [left.target for left in report.not_run])
    for target in targets:
        _suite(root, report, target, [s for s in report.scenarios if s.target == target])
    problems = summary.suite_problems(report)
    if problems:
        suite = ET.SubElement(root, "testsuite", {"name": "suite", "time": "0"})
        for problem in problems:
            case = ET.SubElement(
                suite, "testcase", {"classname": "suite", "name": _clean(problem), "time": "0"}
            )
            _outcome(case, "failure", "suite", [problem])
    for element in (*root, root):
        _count(element)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, report: Report, target: str, scenarios: Iterable[ScenarioRecord]) -> None:
    scenarios = tuple(scenarios)
    attributes = {"name": _clean(target), "time": _time(sum(s.duration_s for s in scenarios))}
    if report.started_at:
        attributes["timestamp"] = _clean(report.started_at)
    suite = ET.SubElement(root, "testsuite", attributes)
    properties = ET.SubElement(suite, "properties")
    admitted = [
        (f"time to admit {scenario.name}", summary.time_to_admit(scenario))
        for scenario in scenarios
        if scenario.admission is not None and scenario.admission.outcome in ("admitted", "lying")
    ]
    for name, value in (*_properties(report), *admitted):
        ET.SubElement(properties, "property", {"name": _clean(name), "value": _clean(value)})
    for scenario in scenarios:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": _clean(scenario.target),
                "name": _clean(scenario.name),
                "time": _time(scenario.duration_s),
            },
        )
        if scenario.verdict != "pass":
            kind = "failure" if scenario.verdict == "fail" else "error"
            why = scenario.reasons or (summary.why(scenario),)
            _outcome(case, kind, scenario.verdict, [*why, f"reproduce: {scenario.reproduce}"])
        ET.SubElement(case, "system-out").text = _clean("\n".join(_facts(scenario)) + "\n")
        if output := "\n".join(_target_output(scenario)):
            ET.SubElement(case, "system-err").text = _clean(output + "\n")
    for left in report.not_run:
        if left.target == target:
            named = {"classname": _clean(target), "name": _clean(left.name), "time": "0"}
            skipped = ET.SubElement(ET.SubElement(suite, "testcase", named), "skipped")
            skipped.set("message", _clean(left.reason))


def _outcome(case: ET.Element, kind: str, type_: str, lines: list[str]) -> None:
    element = ET.SubElement(case, kind, {"type": type_, "message": _clean(lines[0])})
    element.text = _clean("\n".join(lines))


def _properties(report: Report) -> Iterable[tuple[str, str]]:
    yield "schema", report.schema
    yield "seed", str(report.seed)
    for name, value in (
        ("in a sentence", headline.sentence(report)),
        ("suite", report.suite.name),
        ("wedge", report.version),
        ("platform", report.host.platform),
        ("python", report.host.python),
        ("cores", str(report.host.cores or "")),
    ):
        if value:
            yield name, value


def _facts(scenario: ScenarioRecord) -> Iterable[str]:
    """What was done and seen, one `name: value` per line."""
    fault, bite, stuck = scenario.fault, scenario.bite, scenario.stuck
    given = [*fault.params.items(), *((f"trigger.{key}", value) for key, value in fault.trigger.items())]
    yield f"expected: {scenario.expected}"
    yield f"observed: {summary.seen_words(scenario)}"
    yield f"verdict: {scenario.verdict}"
    yield " ".join(
        [f"fault: {fault.name}", *([f"in {fault.process}"] if fault.process else [])]
        + [f"{key}={numbers.value(value)}" for key, value in given]
    )
    held = f", held {numbers.duration(bite.held_s)}" if bite.held_s is not None else ""
    yield f"bite: {numbers.count(bite.hits, 'hit')}{held}"
    yield from (f"bite evidence: {line}" for line in bite.evidence)
    yield (
        f"stuck calls: {stuck.started} started, {stuck.pending_in_window} pending in the window, "
        f"{stuck.ended_after_release} ended after release"
    )
    if admitted := summary.time_to_admit(scenario):
        yield f"time to admit: {admitted}"
    for series in summary.series_names(scenario):
        seen = scenario.phases.faulted.get(series)
        if seen is not None:
            yield (
                f"{series}: {summary.state(scenario, series)}, {seen.ok} of {seen.sent} answered, "
                f"p50 {numbers.milliseconds(seen.p50_ms)}, p99 {numbers.milliseconds(seen.p99_ms)}, "
                f"longest gap {numbers.milliseconds(seen.longest_gap_ms)}"
            )
    leaks = scenario.leaks
    counts = {name: getattr(leaks, name) for name in ("mappings", "processes", "threads", "fds")}
    yield "leaks: " + ", ".join(f"{left} {what}" for what, left in counts.items())
    kubelet = scenario.kubelet
    figures = {
        "liveness": None
        if kubelet.liveness_restarts is None
        else numbers.count(kubelet.liveness_restarts, "restart"),
        "readiness": None
        if kubelet.readiness_flips is None
        else f"{numbers.count(kubelet.readiness_flips, 'time')} out of rotation",
    }
    missing = {role: kubelet.not_replayed.get(role, "nothing was judged") for role in figures}
    yield "kubelet: " + ", ".join(
        figure or f"{role} not replayed ({missing[role]})" for role, figure in figures.items()
    )
    yield f"reproduce: {scenario.reproduce}"


def _target_output(scenario: ScenarioRecord) -> Iterable[str]:
    """The stacks and the log of the target; nothing where the scenario passed."""
    if scenario.verdict == "pass":
        return
    for stack in scenario.stacks:
        yield f"stack of {stack.process} (pid {stack.pid}, by {stack.source}):\n{stack.text}"
    if scenario.target_log:
        yield "log of the target:"
        yield from scenario.target_log[-_LOG_LINES:]


def _count(element: ET.Element) -> None:
    """Set the counts that the schema wants on a suite, or on all of them."""
    counts = {"tests": "testcase", "failures": "failure", "errors": "error"}
    if element.tag == "testsuite":
        counts["skipped"] = "skipped"
    for attribute, tag in counts.items():
        element.set(attribute, str(len(element.findall(f".//{tag}"))))


def _time(seconds: float) -> str:
    return f"{max(0.0, seconds):.3f}"


def _clean(text: str) -> str:
    """The text with control characters as Python escapes, since XML cannot contain most of them."""
    return _FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
