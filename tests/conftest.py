"""Settings for all tests."""

from __future__ import annotations

import signal

import pytest

# A shell that starts the tests in the background ignores these two, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests needed a second try, even if none did."""
    again = list(dict.fromkeys(report.nodeid for report in terminalreporter.stats.get("rerun", ())))
    terminalreporter.write_line(f"tests that needed a second run: {len(again)}")
    for nodeid in again:
        terminalreporter.write_line(f"  {nodeid}")
