"""The HTML report as text: self-contained, escaped, bounded, with everything in it that a reader needs."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import msgspec
import pytest
from msgspec.structs import replace

from scenarios.record import (
    AssertionRecord,
    Bite,
    CallRecord,
    FaultRecord,
    KubeletRules,
    LoadRecord,
    Report,
    ScenarioRecord,
    ServerStop,
    SimultaneousFault,
    Stack,
    SuiteRecord,
    decode,
)
from scenarios.record.stability import stability, turn
from scenarios.report import html, markdown
from tests.scenarios.sample_reports import Endpoint, many, one_of_each, report, scenario

VOID = {"meta", "link", "input", "br", "img", "hr"}
HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "' onmouseover='window.hacked=1",
    "</title></style></script><svg onload=window.hacked=1>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.hacked=1",
)


class Page(HTMLParser):
    """The page's elements, texts and attributes; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def hostile(text: str) -> ScenarioRecord:
    """A scenario with this text wherever a target, a suite or a fault can put text."""
    plain = scenario(server="stalled", leaked=1)
    series = {text + name: replace(one, endpoint=text + one.endpoint) for name, one in plain.series.items()}

    def renamed(values: dict[str, object]) -> dict[str, object]:
        return {text + name: value for name, value in values.items()}

    return msgspec.convert(
        msgspec.to_builtins(plain)
        | {
            "name": text,
            "target": text,
            "fault": {"name": text, "params": {text: text}, "process": text, "trigger": {text: [text]}},
            "reasons": [text],
            "reproduce": text,
            "summary": text,
            "stands_for": text,
            "controls": [text, text + "?"],
            "also": [{"fault": {"name": text, "params": {text: text}}, "bite": {"evidence": [text]}}],
            "beside": [
                {"n": 1, "name": text, "began_s": 0, "ended_s": 1, "outcome": "error", "detail": text}
            ],
            "said": [{"probe": text, "status": text, "body": text, "last": text}],
            "loads": [{"kind": text, "name": text, "detail": text}],
            "kubelet": msgspec.to_builtins(plain.kubelet) | {"source": text, "note": text},
            "guards": [{"name": text, "kind": "claim", "held": False, "detail": text}],
            "bite": {"hits": 1, "evidence": [text], "state": text, "times_s": {text: 1.0, "biting": -0.4}},
            "stacks": [{"process": text, "pid": 1, "source": text, "text": text}],
            "target_log": [text],
            "lanes": msgspec.to_builtins(series),
            "samples": renamed(msgspec.to_builtins(plain.samples)),
            "dark_gaps": renamed(msgspec.to_builtins(plain.dark_gaps)),
            "ratios": renamed(msgspec.to_builtins(plain.ratios)),
            "phase_durations_s": {text: 1.0},
            "window": {"closed_s": 2.4, "marks_s": {text: 0.0}},
            "leaks": {"mappings": 1, "details": [text]},
            "stuck": {
                "started": 1,
                "calls": [
                    {"n": 1, "name": text, "began_s": 0, "ended_s": None, "outcome": "error", "detail": text}
                ],
            },
        },
        ScenarioRecord,
    )


def hostile_report(text: str) -> Report:
    return report(
        hostile(text),
        suite=SuiteRecord(name=text, failures=(text,), missing_controls=(text,), not_run=(text,)),
        started_at=text,
        version=text,
    )


def test_the_first_glance_has_verdict_counts_duration_and_seed() -> None:
    words = Page(html.render(report(seed=42))).words
    top = words[: words.index("Overview")]
    assert "Failed 1 failed, 1 unproven, 4 passed of 6 scenarios" in top
    assert "duration 31.4 s" in top
    assert "seed 42" in top


def test_a_run_that_passed_says_so_and_has_no_notice() -> None:
    words = Page(html.render(report(*(s for s in one_of_each() if s.verdict == "pass")))).words
    top = words[: words.index("Overview")]
    assert "Passed 4 passed of 4 scenarios" in top
    assert "nothing vouches" not in top


def test_a_broken_control_fails_the_page_although_every_scenario_passed() -> None:
    suite = SuiteRecord(failures=("the control gil.hold@x was lit, not dark: it vouches for y",))
    words = Page(html.render(report(scenario(), suite=suite))).words
    assert "Failed" in words[: words.index("Overview")]
    assert suite.failures[0] in words


def test_what_did_not_pass_stands_first_and_unfolded() -> None:
    text = html.render(report())
    names = re.findall(r'<details class="scenario[^>]*data-name="([^"]+)"( open)?>', text)
    assert [name for name, _ in names][:2] == ["call.stall@pegaref-pool", "call.drop@pegaref-process"]
    assert [bool(unfolded) for _, unfolded in names] == [True, True, False, False, False, False]


def test_every_scenario_has_its_reasons_evidence_stacks_and_command() -> None:
    words = Page(html.render(report())).words
    for given in one_of_each():
        for expected in (*given.reasons, *given.bite.evidence, given.reproduce):
            assert expected in words
    assert 'File "pegaref/actor/tensors.py", line 141 in drop_instance' in words


def test_lit_and_dark_are_words_and_shapes_not_only_colours() -> None:
    text = html.render(report())
    assert "fresh: dark" in text
    assert "fresh: lit" in text
    for shape in ("i-l-lit", "i-l-dark", "i-l-missed", "i-v-pass", "i-v-fail", "i-v-unproven"):
        assert f'<symbol id="{shape}"' in text
        assert f'href="#{shape}"' in text


def test_the_page_needs_nothing_from_anywhere() -> None:
    text = html.render(report())
    page = Page(text)
    assert {value[:5] for _, name, value in page.attributes if name == "href"} <= {
        *(f"#i-{kind}-" for kind in "vl"),
        *(f"#s{n}" for n in range(1, 10)),
        "data:",
    }
    assert not [a for a in page.attributes if a[1] in ("src", "srcset", "action", "style", "background")]
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#hatch"}
    assert "@import" not in text
    assert "//" not in re.sub(r"http://www\.w3\.org/2000/svg|^\s*// .*$", "", text, flags=re.MULTILINE)


def test_the_policy_lets_only_this_style_and_this_script_run() -> None:
    text = html.render(report())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    for kind in ("style", "script"):
        (body,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src &#39;sha256-{digest}&#39;" in policy
    assert policy.startswith("default-src &#39;none&#39;")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    page = Page(html.render(hostile_report(text)))
    harmless = Page(html.render(hostile_report("-" * len(text))))
    assert page.tags == harmless.tags
    assert [a[:2] for a in page.attributes] == [a[:2] for a in harmless.attributes]
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert " ".join(text.split()) in page.words


def test_ids_are_unique() -> None:
    ids = Page(html.render(report())).ids
    assert len(ids) == len(set(ids))


def test_sixty_four_scenarios_of_two_thousand_samples_stay_under_four_megabytes() -> None:
    big = many(64, 2_000)
    assert sum(len(row) for s in big.scenarios for row in s.samples.values()) > 64 * 1_900
    text = html.render(big)
    assert len(text.encode()) < 4_000_000


def test_the_size_hardly_follows_the_samples_and_the_page_says_that_it_is_reduced() -> None:
    few, lots = html.render(many(1, 2_000)), html.render(many(1, 12_000))
    assert len(lots) < 1.3 * len(few)
    assert re.search(r"Drawing reduced: 1[12],\d{3} probes in 500 columns a series", lots)
    assert "Drawing reduced" not in html.render(report(scenario()))


def test_endless_stacks_logs_and_calls_are_cut_with_a_word_about_it() -> None:
    calls = tuple(
        CallRecord(n=n, name="r", began_s=0.0, ended_s=1.0, outcome="answered") for n in range(1_000)
    )
    given = scenario(
        stacks=(Stack(process="registry", pid=1, source="py-spy", text="x" * 1_000_000),),
        target_log=tuple("line" for _ in range(10_000)),
        stuck=replace(scenario().stuck, calls=calls),
    )
    text = html.render(report(given))
    assert len(text) < 300_000
    words = Page(text).words
    assert "976,000 more characters in the JSON report" in words
    assert "its last 200 of 10,000 lines" in words
    assert "and 960 more, in the JSON report" in words


def test_a_report_with_nothing_but_the_contracts_keys_is_rendered() -> None:
    phase = {"http /health": {"sent": 9, "ok": 9, "p50_ms": 1, "p99_ms": 1, "max_ms": 1, "longest_gap_ms": 1}}
    minimal = {
        "schema": "wedge-report/1",
        "seed": 0,
        "duration_s": 1.0,
        "scenarios": [
            {
                "name": "gil.hold@any",
                "target": "any",
                "fault": {"name": "gil.hold", "params": {}, "process": "registry"},
                "expected": "lit",
                "observed": "lit",
                "verdict": "pass",
                "phases": {"baseline": phase, "faulted": phase, "recovered": {}},
            }
        ],
    }
    words = Page(html.render(decode(msgspec.json.encode(minimal)))).words
    assert "Passed 1 passed" in words
    assert "holds no samples" in words


def test_an_empty_run_is_no_pass() -> None:
    words = Page(html.render(Report())).words
    assert "Unproven no scenario ran" in words


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_colour_can_be_read_on_every_ground(scheme: str) -> None:
    """WCAG 2 AA, 4.5:1, of every colour that text has, on the grounds that it stands on."""
    css = re.findall("<style>(.*?)</style>", html.render(Report()), re.DOTALL)[0]
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(
        re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[0] + (blocks[1] if scheme == "dark" else ""))
    )
    for ink in ("ink", "muted", "link", "pass", "fail", "unproven", "late"):
        for ground in ("ground", "panel", "sunken"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for verdict in ("pass", "fail", "unproven"):
        assert contrast(colours["ink"], colours[f"{verdict}-soft"]) >= 4.5
        assert contrast(colours["on"], colours[verdict]) >= 3.0


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_scenarios_on_several_targets_are_crossed_above_everything_else() -> None:
    text = html.render(report())
    table = text[text.index('<table class="cross">') : text.index('<table class="matrix">')]
    assert re.findall(r'<th scope="col">([^<]*)</th>', table) == [
        "pegaref-…",
        "process",
        "inline",
        "thread",
        "pool",
    ]
    assert re.findall(r'<th scope="row">([^<]*)</th>', table) == [
        "gil.hold",
        "call.stall",
        "process.kill",
        "call.drop",
    ]
    linked = dict(re.findall(r'<a href="#(s\d+)" title="([^:"]*):', table))
    sections = dict(re.findall(r'<details class="scenario[^>]* id="(s\d+)"[^>]*data-name="([^"]*)"', text))
    assert linked == sections


def test_scenarios_on_one_target_are_not_crossed() -> None:
    assert 'class="cross"' not in html.render(report(scenario(), scenario("call.drop@pegaref-process")))


def test_the_probers_cost_stands_at_the_top() -> None:
    words = Page(html.render(report())).words
    assert "at worst 2 ms late and 8% of a core" in words[: words.index("Overview")]


def test_latencies_of_the_whole_run_are_plotted_baseline_against_faults() -> None:
    text = html.render(report(*(scenario(seed=n) for n in range(12))))
    section = text[text.index('id="pooled"') : text.index('id="details"')]
    assert "12 scenarios pooled" in section
    assert re.findall(r"<figcaption><b>([^<]*)", section) == ["http /health", "http /metrics", "grpc health"]
    for kind in ("before", "under"):
        paths = re.findall(f'<path class="{kind}" d="(M0 [^"]*)"', section)
        assert len(paths) == 3
        assert all(re.fullmatch(r"M0 \d+(H\d+V\d+)*H\d+", path) for path in paths)
    answered = re.findall(r">([\d,]+) of ([\d,]+) answered under the faults", section)
    assert len(answered) == 3
    assert all(ok == sent for ok, sent in answered)
    assert "p50 0." in re.findall(r'aria-label="(http /health: [^"]*)"', section)[0]


def test_without_histograms_there_are_no_plots() -> None:
    assert 'id="pooled"' not in html.render(replace(report(), pooled={}))


def test_the_source_of_the_kubelets_rules_is_named() -> None:
    plain = scenario()
    given = replace(
        plain,
        kubelet=replace(
            plain.kubelet,
            source="deploy.yaml: Deployment/pegaref, container server",
            readiness_rules=KubeletRules(timeout_s=2.0, period_s=5.0, failure_threshold=1),
        ),
    )
    words = Page(html.render(report(given))).words
    assert "rules deploy.yaml: Deployment/pegaref, container server" in words
    assert "liveness timeout 1.00 s, period 10.0 s, threshold 3" in words
    assert "readiness timeout 2.00 s, period 5.00 s, threshold 1" in words
    assert "rules Kubernetes' defaults" in Page(html.render(report(plain))).words


def test_what_happened_beside_the_fault_is_shown() -> None:
    given = scenario(
        also=(
            SimultaneousFault(
                fault=FaultRecord(name="fd.exhaust", process="main"), bite=Bite(hits=1, evidence=("EMFILE",))
            ),
        ),
        beside=(
            CallRecord(n=7, name="session", began_s=0.1, ended_s=0.2, outcome="error", detail="UNAVAILABLE"),
        ),
        said=(
            AssertionRecord(
                probe="http /ready",
                status=503,
                body="gil_held",
                asked=20,
                met=9,
                first_met_s=1.25,
                last="200",
            ),
            AssertionRecord(probe="http /health", status=200, when="always", asked=21, met=20),
        ),
        loads=(
            LoadRecord(
                kind="idle", name="http /health", started=2_000, open=2_000, there=True, detail="all up"
            ),
        ),
        stopped=ServerStop(code=0, took_s=1.4),
    )
    words = Page(html.render(report(given))).words
    for told in (
        "And at once fault fd.exhaust in main",
        "EMFILE",
        "1 call beside them",
        "session 7",
        "http /ready eventually 503 gil_held 9 of 20 answers, first at +1.25 s; last: 200",
        "http /health always 200 20 of 21 answers",
        "idle of http /health 2,000 started, 0 answered, 0 errors, 2,000 open at the end",
        "gone after 1.40 s, exit code 0",
    ):
        assert told in words, told


def test_a_series_that_speaks_neither_http_nor_grpc_is_one_like_others() -> None:
    raw = Endpoint("tcp port", "tcp", "fresh", 0.2)
    words = Page(html.render(report(scenario(endpoints=(raw,))))).words
    assert "tcp port" in words
    assert "Passed 1 passed" in words


def test_a_suite_that_was_repeated_says_how_steady_it_was() -> None:
    given = report(scenario())
    turns = [turn(replace(given, seed=n), 1.5) for n in range(19)]
    bad = turn(replace(given, scenarios=(scenario(server="stalled"),)), 9.0)
    repeated = replace(given, stability=stability([*turns[:9], bad, *turns[9:]]))
    flaky = "not steady: gil.hold@pegaref-process did not pass in 1 of 20 runs (2 flips)"
    words = Page(html.render(repeated)).words
    assert "repeated 20 runs × 1 scenarios, 20 verdicts: 2 flips, 1 not pass" in words
    assert flaky in words
    assert flaky in markdown.render(repeated).replace("\\", "")
    assert "runs ×" not in Page(html.render(given)).words


def test_seventy_real_sized_scenarios_stay_under_three_megabytes() -> None:
    assert len(html.render(many(70, 260)).encode()) < 3_000_000
