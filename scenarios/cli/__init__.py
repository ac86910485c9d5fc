"""The `wedge` command. This module imports nothing that may not be installed."""

from __future__ import annotations

import sys

from scenarios.errors import missing_package


def main() -> None:
    """Run the command. Exits 2 with one line where a package of the extra `wedge` is not installed."""
    try:
        from scenarios.cli.run import main as run

        run()
    except ModuleNotFoundError as error:
        package = missing_package(error)
        if package is None:
            raise
        sys.stderr.write(f"wedge: {package} is not installed here: pip install 'pegaref[wedge]'\n")
        sys.exit(2)
