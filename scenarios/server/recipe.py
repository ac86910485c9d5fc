"""What a target requires, and the name of the environment that has it: a hash of all that it is made from."""

from __future__ import annotations

import hashlib
import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scenarios.errors import Malformed
from scenarios.spec.overlay import layered
from scenarios.spec.target_file import LoadedTarget

_FORMAT = 1
_FILE = re.compile(r"^(?:-r|--requirement)[ =]?(.+)$")
_NESTED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]?(.+)$")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made from. `files`: requirement files and all they include, with contents."""

    target: str
    packages: tuple[str, ...]
    requirement_files: tuple[Path, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    surroundings: bool = False

    @property
    def key(self) -> str:
        """The name of the environment's folder; the same for the same ingredients."""
        made_from = {
            "format": _FORMAT,
            "packages": sorted(self.packages),
            "files": sorted(content for _, content in self.files),
            "python": [sys.version, str(Path(sys.executable).resolve())],
            "surroundings": _surrounding_packages() if self.surroundings else None,
        }
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]

    @property
    def arguments(self) -> list[str]:
        """What pip is asked to install."""
        return [*self.packages, *(part for file in self.requirement_files for part in ("-r", str(file)))]

    def __str__(self) -> str:
        return ", ".join([*self.packages, *(file.name for file in self.requirement_files)])


def recipe(loaded: LoadedTarget) -> Recipe | None:
    """What the target requires, or None where it requires nothing. Raises `Malformed`."""
    start = loaded.target.target
    if not start.requires:
        return None
    packages, requirement_files, files = [], [], []
    for entry in (" ".join(entry.split()) for entry in start.requires):
        if found := _FILE.match(entry):
            file = loaded.path.parent / found[1].strip()
            requirement_files.append(file)
            files += list(_contents(loaded, file))
        elif not entry or entry.startswith("-"):
            raise _malformed(
                loaded, f"{entry!r} is no package; options other than `-r FILE` belong into pip's settings"
            )
        elif entry.startswith((".", "/", "~", "file:")) or "@ file:" in entry:
            raise _malformed(
                loaded,
                f"{entry!r} is a path, whose contents may change unseen; install it where `wedge` is "
                "installed, and leave it out",
            )
        else:
            packages.append(entry)
    return Recipe(loaded.name, tuple(packages), tuple(requirement_files), tuple(files), start.surroundings)


def _contents(
    loaded: LoadedTarget, file: Path, seen: frozenset[Path] = frozenset()
) -> Iterator[tuple[str, str]]:
    """A requirement file and those it includes, each once."""
    file = file.resolve()
    if file in seen:
        return
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise _malformed(loaded, f"{file} cannot be read: {error.strerror}") from error
    yield str(file), text
    for line in text.splitlines():
        if found := _NESTED.match(line.strip()):
            yield from _contents(loaded, file.parent / found[1].strip(), seen | {file})


def _malformed(loaded: LoadedTarget, problem: str) -> Malformed:
    return layered(loaded.path).malformed(("target", "requires"), problem)


def package_folders() -> list[Path]:
    """Where the packages of the environment that runs this lie."""
    own = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    others = [Path(folder) for folder in site.getsitepackages() if folder in sys.path]
    return [folder for folder in dict.fromkeys([*own, *others]) if folder.is_dir()]


def _surrounding_packages() -> list[str]:
    """Those folders, and which packages are in them, with their versions."""
    return [
        entry
        for folder in package_folders()
        for entry in [str(folder), *sorted(path.name for path in folder.glob("*.dist-info"))]
    ]
