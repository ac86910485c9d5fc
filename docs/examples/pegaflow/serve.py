"""Start PegaFlow's server from its wheel: a Rust program with a Python inside.

The program needs to find the shared library of Python, and the Python inside needs to find the packages that
are seen here. Everything else (arguments, environment) goes through as it is.
"""

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

library = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")
if not library.exists():
    sys.exit(f"PegaFlow needs a Python with a shared library, and there is no {library}")
package = find_spec("pegaflow")
if package is None or not package.submodule_search_locations:
    sys.exit("PegaFlow is not installed here: pip install pegaflow-llm-cu13")
server = Path(package.submodule_search_locations[0]) / "pegaflow-server-py"
server.chmod(server.stat().st_mode | 0o111)

packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
for name, values in (("LD_LIBRARY_PATH", [str(library.parent)]), ("PYTHONPATH", packages)):
    given = [value for value in os.environ.get(name, "").split(os.pathsep) if value]
    os.environ[name] = os.pathsep.join([*given, *values])
os.execv(server, [str(server), *sys.argv[1:]])
