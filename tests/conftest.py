"""Settings for all tests."""

from __future__ import annotations

import signal
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tests.faults.matrix_report import MATRIX, PRINTED

TESTS = Path(__file__).parent

# What takes longest comes first, so that no worker is left with one of them at the end; not every whole run,
# though: those are judged by the clock, and would meet.
FIRST = (
    "faults/test_versions.py",
    "scenarios/test_docs_tutorial.py",
    "scenarios/test_run_beside.py",
    "scenarios/test_examples.py",
    "pegaref/test_shutdown.py",
    "pegaref/test_unkillable.py",
)

# What a newer Python changes nothing about: it runs on 3.11 alone, as what is marked `once` does. What stays
# is about asyncio, subprocesses, sockets, TLS, signals, annotations (msgspec reads them), commands, pickles.
ONCE = (
    # judging, drawing and telling: what comes out of a record is arithmetic and text
    "scenarios/test_judge*.py",
    "scenarios/test_histogram.py",
    "scenarios/test_kubelet.py",
    "scenarios/test_load_facts.py",
    "scenarios/test_report_*.py",
    "scenarios/test_stability.py",
    "scenarios/test_terminal.py",
    # looking at a machine, at a running target and at what a user wrote or has to install
    "scenarios/test_environment.py",
    "scenarios/test_examples.py",
    "scenarios/test_gpu_suite.py",
    "scenarios/test_kubernetes.py",
    "scenarios/test_live_*.py",
    "scenarios/test_machine.py",
    "scenarios/test_open_files.py",
    "scenarios/test_target_check.py",
    "scenarios/test_target_init.py",
    # whole runs and documents: BUT has the run with every proof in it
    "scenarios/test_cli.py",
    "scenarios/test_default_controls.py",
    "scenarios/test_default_suite.py",
    "scenarios/test_docs_*.py",
    "scenarios/test_loads*.py",
    "scenarios/test_not_run.py",
    "scenarios/test_pytest_*.py",
    "scenarios/test_run*.py",
    "scenarios/test_suite_items.py",
    # the registry in virtual time
    "pegaref/test_handle_model.py",
    "pegaref/test_hang_detector.py",
)
BUT = {
    "scenarios/test_cli.py": (
        "test_a_kill_in_mid_fault_leaves_nothing",
        "test_a_malformed_target_exits_2_with_file_line_and_key",
        "test_a_signal_in_mid_fault_exits_130_and_leaves_nothing",
        "test_the_list_names_every_scenario_and_what_must_be_seen",
    ),
    "scenarios/test_loads.py": (
        "test_a_load_speaks_tls_where_the_probe_does",
        "test_of_a_load_no_socket_process_or_descriptor_is_left",
    ),
    "scenarios/test_pytest_plugin.py": (
        "test_ctrl_c_in_the_middle_of_a_wedge_leaves_no_server_behind",
        "test_the_plugin_costs_a_pytest_that_has_no_wedge_nothing",
    ),
    "scenarios/test_run.py": (
        "test_a_killed_worker_respawns_and_a_killed_server_is_gone",
        "test_the_bug_goes_dark_and_its_repair_stays_lit_with_every_proof",
    ),
}

# A shell that starts the tests in the background ignores these two, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _is_once(path: Path) -> bool:
    """Whether the file is one of those of `ONCE`."""
    return any(fnmatch(path.relative_to(TESTS).as_posix(), pattern) for pattern in ONCE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even load a file of which nothing would be left."""
    wanted = "not once" not in config.option.markexpr
    if wanted or not collection_path.is_relative_to(TESTS) or not _is_once(collection_path):
        return None
    return None if collection_path.relative_to(TESTS).as_posix() in BUT else True


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and mark what needs no newer Python."""
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(TESTS).as_posix(), len(ranks)))
    for item in items:
        needed = BUT.get(item.path.relative_to(TESTS).as_posix(), ())
        if _is_once(item.path) and item.name.partition("[")[0] not in needed:
            item.add_marker("once")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the table of test_versions.py from the worker of xdist that has it."""
    if lines := getattr(node, "workeroutput", {}).get(MATRIX):
        node.config.stash[PRINTED] = lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print that table, and how many tests passed or failed only at a second try, also when none did."""
    if lines := terminalreporter.config.stash.get(PRINTED, None):
        terminalreporter.section(MATRIX)
        for line in lines:
            terminalreporter.write_line(line)
    again = list(dict.fromkeys(report.nodeid for report in terminalreporter.stats.get("rerun", ())))
    terminalreporter.write_line(f"tests that needed a second run: {len(again)}")
    for nodeid in again:
        terminalreporter.write_line(f"  {nodeid}")
