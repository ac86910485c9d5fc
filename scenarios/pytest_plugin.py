"""Scenarios as tests of your own server.

    @pytest.mark.wedge(target="my.toml", fault="gil.hold")
    def test_health_survives_a_held_gil(): ...

runs the whole scenario (baseline, fault, window, release, recovery) before the body, and the test fails with
the verdict's reasons when that is not `pass`. The body may ask for more: the fixture `wedge` has the record,
runs further scenarios, and starts servers to be broken step by step.

With pytest-xdist every worker has its own servers. `--wedge-json FILE` writes all records as one report, for
`wedge report`.

Every pytest in an environment with `wedge` loads this module, so it imports nothing before a test needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scenarios.testing.marked_items import Wedge

MARKER = (
    "wedge(target, fault, expect='lit', process=None, params={}, trigger={}, call=None, count=4, calls=None, "
    "deadline_s=None, after='recovers', control=None, timing={}, seed=0): break the target's server, watch "
    "it from outside, judge it; any other keyword is a parameter of the fault, such as site='gpu'"
)

_WORK = "scenarios.testing.marked_items"
_USES = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option: where to write the report."""
    group = parser.getgroup("wedge")
    group.addoption("--wedge-json", metavar="FILE", help="write the records of all wedge tests as one report")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and collect the records in the main process."""
    config.addinivalue_line("markers", MARKER)
    file = config.getoption("--wedge-json")
    if file and not hasattr(config, "workerinput"):  # xdist's workers send theirs to the controller
        from scenarios.testing.marked_items import Recorder

        config.pluginmanager.register(Recorder(Path(file)), "wedge-recorder")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End every server that was kept."""
    if _WORK in sys.modules:
        from scenarios.testing import marked_items

        marked_items.end(session.config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Turn the marks into scenarios."""
    marks = list(item.iter_markers("wedge"))  # the nearest first
    if marks or "wedge" in getattr(item, "fixturenames", ()):
        from scenarios.testing import marked_items

        item.stash[_USES] = True
        marked_items.set_up(item, marks)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run the scenarios, then the body."""
    if item.stash.get(_USES, False):
        from scenarios.testing import marked_items

        marked_items.call(item)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the records along with the test's report, from xdist's workers too."""
    report = yield
    if call.when == "call" and item.stash.get(_USES, False):
        from scenarios.testing import marked_items

        setattr(report, marked_items.ATTRIBUTE, marked_items.encoded(item))
    return report


@pytest.fixture
def wedge(request: pytest.FixtureRequest) -> Iterator[Wedge]:
    """The record of the test's own scenario, more scenarios, and servers to break step by step."""
    from scenarios.testing.marked_items import Wedge

    with ExitStack() as stack:
        yield Wedge(request.node, stack)
