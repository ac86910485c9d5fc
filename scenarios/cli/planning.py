"""From what a command line asks for to what is run, and how a kubelet would look at it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from scenarios.errors import CouldNotRun
from scenarios.judge import kubelet
from scenarios.record import NotRun, Report
from scenarios.run.run import Plan, default_jobs
from scenarios.server.needs import unmet
from scenarios.spec import kubernetes, suite_file, target_file

_AGAIN_AT_MOST = 10
"""A machine that is too busy to tell of more scenarios is no place to run the suite at all."""


def plan_for(
    names: tuple[str, ...], suite: str | None, target: str | None, jobs: int | None, seed: int
) -> Plan:
    """What a command line asks for. Raises `CouldNotRun`, also when this machine can run none of it."""
    options: list[str] = []
    for option, value in (("--suite", suite), ("--target", target)):
        options += [option, value] if value is not None else []
    path = suite_for(suite, target)
    loaded = suite_file.load(path, target)
    selected = suite_file.select(loaded.scenarios, names, loaded.not_run)
    left = list(suite_file.matched(loaded.not_run, names))
    if not selected:
        raise CouldNotRun(
            f"no row of suite {loaded.suite.suite.name} fits the target: the sites and processes that the "
            f"rows name are not in its file (`wedge target check {target}` says which to add)"
        )
    missing = {scenario.name: reason for scenario in selected if (reason := unmet(scenario.target))}
    if len(missing) == len(selected):
        raise CouldNotRun(f"nothing of this can run here: {'; '.join(dict.fromkeys(missing.values()))}")
    left += [
        NotRun(name=s.name, target=s.target.name, reason=missing[s.name])
        for s in selected
        if s.name in missing
    ]
    return Plan(
        scenarios=tuple(scenario for scenario in selected if scenario.name not in missing),
        not_run=tuple(left),
        seed=seed,
        jobs=jobs or default_jobs(),
        suite_name=loaded.suite.suite.name,
        suite_file=path,
        options=tuple(options),
        again=_AGAIN_AT_MOST,
    )


def suite_for(suite: str | None, target: str | None) -> Path:
    """The suite's file. Without a suite, a target that the default suite knows is run through that, any other
    through the suite for any server. Raises `CouldNotRun`."""
    if suite is None and target is not None:
        known = target_file.load(target_file.find(target)).name in suite_file.targets(
            suite_file.find(suite_file.DEFAULT)
        )
        suite = suite_file.DEFAULT if known else suite_file.ANY
    return suite_file.find(suite or suite_file.DEFAULT)


def deployed(k8s: str | None, plan: Plan) -> dict[str, kubernetes.Kubelet]:
    """How each target of the plan is probed by the manifest. Raises `CouldNotRun`."""
    if k8s is None:
        return {}
    container = kubernetes.at(k8s)
    found = {s.target.name: kubernetes.kubelet(container, s.target.target) for s in plan.scenarios}
    for note in dict.fromkeys(note for probed in found.values() for note in probed.notes):
        click.echo(f"wedge: {note}", err=True)
    return found


def replayed(found: Report, probed_by: dict[str, kubernetes.Kubelet], k8s: str | None) -> Report:
    """The report as the manifest's probes would have judged it."""
    if k8s is None:
        return found
    scenarios = tuple(
        kubelet.with_probe_rules(s, probed_by[s.target].rules, probed_by[s.target].probes, k8s)
        for s in found.scenarios
    )
    return msgspec.structs.replace(found, scenarios=scenarios)
