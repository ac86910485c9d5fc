"""The HTML report in a real browser: it works, it fits, and nothing that it was given runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.record import Report
from scenarios.report import html
from tests.scenarios import chromium, sample_reports
from tests.scenarios.chromium import Page
from tests.scenarios.test_report_html import HOSTILE, hostile_report

pytestmark = [
    pytest.mark.skipif(
        chromium.installed() is None, reason="no chromium on PATH: the page cannot be opened here"
    ),
]

ROWS = "[...document.querySelectorAll('tr.row')].filter(r => r.offsetParent).map(r => r.dataset.name)"
SECTIONS = (
    "[...document.querySelectorAll('details.scenario')].filter(r => r.offsetParent).map(r => r.dataset.name)"
)
SHOWN = "document.querySelector('#shown').value"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """One browser for all tests here: starting one takes longer than all that they do."""
    with chromium.page(deadline_s=180) as page:
        yield page


@pytest.fixture
def opened(browser: Page, tmp_path: Path) -> Page:
    """The report of one of each, freshly opened."""
    return show(browser, tmp_path, sample_reports.report())


def show(browser: Page, folder: Path, report: Report, *, width: int = 1400) -> Page:
    file = folder / "report.html"
    file.write_text(html.render(report), encoding="utf-8")
    browser.errors.clear()
    browser.requested.clear()
    browser.open(file, width=width)
    return browser


def click(page: Page, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).click()")


def fill(page: Page, selector: str, value: str) -> None:
    page.run(
        f"(f => {{ f.value = {value!r}; f.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.querySelector({selector!r}))"
    )


def test_the_page_runs_its_script_without_an_error_and_asks_for_nothing(opened: Page) -> None:
    assert opened.run("document.documentElement.dataset.ready") == "true"
    assert opened.errors == []
    (only,) = opened.requested
    assert only.startswith("file://")


def test_the_verdict_filter_leaves_only_that_verdict_above_and_below(opened: Page) -> None:
    assert len(opened.run(ROWS)) == len(opened.run(SECTIONS)) == 6
    click(opened, "[data-verdict=fail]")
    assert opened.run(ROWS) == opened.run(SECTIONS) == ["call.stall@pegaref-pool"]
    assert opened.run(SHOWN) == "1 of 6 shown"
    assert opened.run("document.querySelector('[data-verdict=fail]').getAttribute('aria-pressed')") == "true"
    click(opened, "button[data-verdict='']")
    assert len(opened.run(ROWS)) == 6
    assert opened.run(SHOWN) == ""


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("#by-target", "pegaref-inline", ["gil.hold@pegaref-inline", "process.kill@pegaref-inline"]),
        ("#by-fault", "call.drop", ["call.drop@pegaref-process"]),
        ("#by-name", "THREAD", ["call.stall@pegaref-thread"]),
        ("#by-name", "no such name", []),
    ],
)
def test_the_other_filters_leave_what_they_name(
    opened: Page, field: str, value: str, left: list[str]
) -> None:
    fill(opened, field, value)
    assert opened.run(ROWS) == opened.run(SECTIONS) == left
    assert opened.run("Boolean(document.querySelector('#none').offsetParent)") == (not left)


def test_filters_add_up_and_one_button_takes_them_all_back(opened: Page) -> None:
    click(opened, "[data-verdict=pass]")
    fill(opened, "#by-fault", "call.drop")
    assert opened.run(ROWS) == []
    click(opened, "#reset")
    assert len(opened.run(ROWS)) == 6
    assert opened.run("document.querySelector('#by-fault').value") == ""


def test_everything_can_be_reached_and_worked_with_the_keyboard(opened: Page) -> None:
    for verdict, key, code, text in (("fail", "Enter", 13, "\r"), ("unproven", " ", 32, " ")):
        opened.run(f"document.querySelector('[data-verdict={verdict}]').focus()")
        opened.key(key, code, text)
        (left,) = opened.run(ROWS)
        assert left in ("call.stall@pegaref-pool", "call.drop@pegaref-process")
        assert opened.run(f"document.querySelector('tr[data-name=\"{left}\"]').dataset.verdict") == verdict
    reached = []
    opened.run("document.activeElement.blur()")
    for _ in range(30):
        opened.key("Tab", 9)
        reached.append(opened.run("document.activeElement.className || document.activeElement.tagName"))
    for wanted in ("SELECT", "INPUT", "scroll", "timeline", "copy", "SUMMARY"):
        assert wanted in reached


def test_the_arrow_keys_read_one_moment_of_a_timeline(opened: Page) -> None:
    first = "[...document.querySelector('.timeline').querySelectorAll('output')].map(o => o.value)"
    assert set(opened.run(first)) == {""}
    opened.run("document.querySelector('.timeline').focus()")
    for _ in range(10):
        opened.key("ArrowLeft", 37)
    seen = opened.run(first)
    assert len(seen) == 6
    assert all(value.endswith((" s", " ms")) for value in seen[:5])
    assert seen[5] == "another answer"
    opened.key("Escape", 27)
    assert set(opened.run(first)) == {""}


def test_a_link_in_the_overview_unfolds_its_scenario(opened: Page) -> None:
    unfolded = "document.querySelector('details.scenario[data-name=\"gil.hold@pegaref-inline\"]').open"
    assert opened.run(unfolded) is False
    click(opened, "tr.row[data-name='gil.hold@pegaref-inline'] a")
    assert opened.run(f"new Promise(done => setTimeout(() => done({unfolded}), 50))") is True


def test_the_copy_button_copies_the_command(opened: Page) -> None:
    text = "document.querySelector('.copy').parentElement.querySelector('code').textContent"
    assert opened.run(text) == "wedge run call.stall@pegaref-pool --seed 0"
    clipboard = "{writeText: async text => { window.copied = text }}"
    opened.run(f"Object.defineProperty(navigator, 'clipboard', {{value: {clipboard}}})")
    click(opened, ".copy")
    assert opened.run("new Promise(done => setTimeout(() => done(window.copied)))") == opened.run(text)
    assert opened.run("document.querySelector('.copy').textContent") == "copied"


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1400, 2200])
def test_the_page_never_scrolls_sideways(browser: Page, tmp_path: Path, width: int) -> None:
    page = show(browser, tmp_path, hostile_report("a_name_without_a_break" * 12), width=width)
    click(page, "button[data-fold=open]")
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.run("document.documentElement.scrollWidth") <= width


def test_a_filter_pales_what_it_leaves_out_of_the_crossing(opened: Page) -> None:
    names = (
        "[...document.querySelectorAll('td.cell-label')].filter(s => !s.classList.contains('off'))"
        ".map(s => s.dataset.name)"
    )
    assert len(opened.run(names)) == 6
    fill(opened, "#by-target", "pegaref-inline")
    assert opened.run(names) == ["gil.hold@pegaref-inline", "process.kill@pegaref-inline"]


def test_of_many_only_what_did_not_pass_is_listed_until_asked_for(browser: Page, tmp_path: Path) -> None:
    page = show(browser, tmp_path, sample_reports.many(32, 300))
    bad = page.run(ROWS)
    assert len(bad) == 4
    assert len(page.run(SECTIONS)) == 32
    assert page.run(SHOWN) == ""
    fill(page, "#by-name", "call.stall-1@")
    assert len(page.run(ROWS)) == len(page.run(SECTIONS)) == 4
    fill(page, "#by-name", "")
    assert page.run(ROWS) == bad
    click(page, "#passing")
    assert len(page.run(ROWS)) == 32
    assert page.run("Boolean(document.querySelector('#passing').offsetParent)") is False


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_does_not_run(browser: Page, tmp_path: Path, text: str) -> None:
    page = show(browser, tmp_path, hostile_report(text))
    click(page, "button[data-fold=open]")
    assert page.run("window.hacked") is None
    assert page.errors == []
    assert page.run("document.querySelector('details.scenario h3').textContent") == text


def test_a_script_that_got_into_the_page_would_still_be_refused(browser: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    page = html.render(sample_reports.report(sample_reports.scenario()))
    file.write_text(page.replace("</main>", "<script>window.hacked = 1</script></main>"), encoding="utf-8")
    browser.errors.clear()
    browser.open(file)
    assert browser.run("window.hacked") is None
    assert any("Content Security Policy" in error for error in browser.errors)
    assert browser.run("document.documentElement.dataset.ready") == "true"


def test_without_its_script_the_page_still_shows_everything(browser: Page, tmp_path: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page = show(browser, tmp_path, sample_reports.report())
        assert page.run("document.documentElement.dataset.ready") is None
        assert len(page.run(ROWS)) == 6
        assert page.run("Boolean(document.querySelector('#filters').offsetParent)") is False
        assert page.run("Boolean(document.querySelector('.copy').offsetParent)") is False
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_dark_scheme_is_dark(browser: Page, tmp_path: Path) -> None:
    page = show(browser, tmp_path, sample_reports.report())
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.run(ground) == "rgb(247, 247, 245)"
    page.open(tmp_path / "report.html", dark=True)
    assert page.run(ground) == "rgb(18, 20, 22)"
