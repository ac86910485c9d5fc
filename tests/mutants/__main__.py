"""Plant the known regressions one at a time in a temporary copy of this tree, and check that their tests
fail.

The tests are run on a copy without any patch first, and have to pass. Then every patch gets a copy of its
own, files that git does not know yet included, and the one test that its header names has to fail in it: by
its own doing, not because it could not be collected or set up. Exits 0 if every regression is noticed, 1 if
one is not, 2 if that cannot be told.

Where no test but a row of the default suite notices, `Noticed-by:` is the command that runs it, such as
`wedge run idle-2000@pegaref-process`: it has to exit 0 on the copy without a patch, and 1 on the other.

Another one: make the mistake in the code, `git diff > tests/mutants/NAME.patch`, take it back, and put two
lines before the diff: `What: ` and a sentence, `Noticed-by: ` and `tests/…/test_x.py::test_name`. A patch
that no longer applies is remade in the same way: the mistake counts, not its lines.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from tests.mutants import ROOT, WEDGE_RUN, DoesNotApply, Mutant, load, paths

_LIMIT_S = 600.0
_WHENCE = """
from importlib.util import find_spec
for name in ("faults", "pegaref", "scenarios", "tests.mutants"):
    print(find_spec(name).origin)
"""


class CannotTell(Exception):
    """Neither noticed nor not."""


@contextmanager
def copy() -> Iterator[Path]:
    """This tree as it is now, in a folder that goes with the context."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    # What still runs when Ctrl-C ends the tests may write a last file into a folder that is being removed.
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder).resolve()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():  # not one that was removed, and git was not told
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        yield tree


def outcomes(tree: Path, tests: Iterable[str]) -> dict[str, set[str]]:
    """What became of these tests in that tree: passed, failed, skipped, or broken (it did not come to the
    test itself). Raises `CannotTell`."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}  # comes before where the packages are installed
    asked = subprocess.run(
        [sys.executable, "-c", _WHENCE], cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    for origin in asked.stdout.split():
        if not Path(origin).is_relative_to(tree):
            raise CannotTell(f"the tests would import {origin}, not the copy's")
    tests = list(dict.fromkeys(tests))
    rows = [test for test in tests if test.startswith(WEDGE_RUN)]
    found = {row: {row_outcome(tree, environment, row)} for row in rows}
    if len(rows) == len(tests):
        return found
    report = tree / "mutant.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    command += [test for test in tests if test not in rows]
    failed("pytest", command, tree, environment)  # which of them did, its report says
    kinds = {"failure": "failed", "error": "broken", "skipped": "skipped"}
    for case in ElementTree.parse(report).iter("testcase"):
        kind = next((kinds[part.tag] for part in case if part.tag in kinds), "passed")
        module = f"{case.get('classname', '')}".replace(".", "/")
        name = f"{case.get('name', '')}".partition("[")[0]
        found.setdefault(f"{module}.py::{name}", set()).add(kind)
    return found


def row_outcome(tree: Path, environment: Mapping[str, str], row: str) -> str:
    """What became of a row of the default suite in that tree: passed or failed. Raises `CannotTell`."""
    command = [sys.executable, "-m", "scenarios", "run", *row.removeprefix(WEDGE_RUN).split()]
    return "failed" if failed(row, command, tree, environment) else "passed"


def failed(what: str, command: Sequence[str], tree: Path, environment: Mapping[str, str]) -> bool:
    """Run pytest or wedge there: whether it ended with 1, not with 0. Raises `CannotTell` for all else."""
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotTell(f"{what} was not over within {_LIMIT_S:g} s") from None
    if done.returncode not in (0, 1):
        raise CannotTell(f"{what} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def unpatched(mutants: Sequence[Mutant]) -> None:
    """All the named tests pass as things are. Raises `CannotTell`."""
    with copy() as tree:
        found = outcomes(tree, [mutant.noticed_by for mutant in mutants])
    for mutant in mutants:
        became = found.get(mutant.noticed_by, {"not run"})
        if became != {"passed"}:
            raise CannotTell(f"{mutant.noticed_by} {' and '.join(sorted(became))} without any patch")


def noticed(mutant: Mutant) -> bool:
    """Whether its test fails under it. Raises `CannotTell`, `DoesNotApply`."""
    with copy() as tree:
        mutant.apply(tree)
        became = outcomes(tree, [mutant.noticed_by]).get(mutant.noticed_by, {"not run"})
    if not became & {"passed", "failed"}:
        raise CannotTell(f"{mutant.name}: {mutant.noticed_by} {' and '.join(sorted(became))}")
    return "failed" in became


def chosen(wanted: Sequence[str]) -> list[Mutant]:
    """Those with these names, or that match these globs; all, where none is given. Raises `CannotTell`,
    `DoesNotApply`."""
    found = {path.stem: path for path in paths()}
    for name in wanted:
        if not fnmatch.filter(found, name):
            near = difflib.get_close_matches(name, found, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(found)}"
            raise CannotTell(f"no patch is named {name!r}: {hint}")
    return [
        load(path)
        for name, path in found.items()
        if not wanted or any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try those that were named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME|GLOB", help="some of tests/mutants; all by default")
    try:
        mutants = chosen(parser.parse_args(arguments).names)
        unpatched(mutants)
        return max([tried(mutant) for mutant in mutants])
    except (CannotTell, DoesNotApply) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def tried(mutant: Mutant) -> int:
    """Print a line about it; the exit code."""
    began_s = time.monotonic()
    try:
        seen = noticed(mutant)
    except (CannotTell, DoesNotApply) as error:
        print(error, file=sys.stderr)
        return 2
    took = f"{time.monotonic() - began_s:.1f} s"
    print(f"{'noticed' if seen else 'NOT NOTICED':11} {mutant.name}  {mutant.noticed_by}  {took}", flush=True)
    return 0 if seen else 1


if __name__ == "__main__":
    raise SystemExit(main())
