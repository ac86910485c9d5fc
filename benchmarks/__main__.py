"""`python -m benchmarks [NAME …] [--write docs/benchmarks.md]`: every figure beside its floor."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import Section, render

#: name -> rounds that give steady figures in well under a minute
BENCHMARKS = {"endpoints": 30, "scrapes": 20, "actor": 30, "start": 7, "stuck": 9, "agent": 5, "kills": 100}


def _heading() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "uvicorn", "starlette", "torch"))
    return (
        "# Benchmarks\n\n"
        "Every figure is measured next to a floor in the same run: the machine is shared, so ratios mean "
        "more than milliseconds. Repeat with `tox -e bench`.\n\n"
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, {libraries}.\n"
    )


def main() -> int:
    """Run the named benchmarks, or all; exit 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, help="batches per subject (more is steadier)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the report as Markdown")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="DIR",
        help="an earlier tree, whose /health is the floor of `scrapes`",
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    sections: list[Section] = []
    for name in options.names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        more = {"baseline": options.baseline.resolve()} if options.baseline and name == "scrapes" else {}
        sections.append(module.run(rounds=options.rounds or BENCHMARKS[name], **more))
        print(render(sections[-1:]), flush=True)
    if options.write:
        options.write.write_text(f"{_heading()}\n{render(sections)}", encoding="utf-8")
    short = [row.what for section in sections for row in section.rows if row.holds is False]
    for what in short:
        print(f"falls short: {what}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(main())
