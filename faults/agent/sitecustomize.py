"""Start the agent where a controller asked for it, then hand over to the user's own `sitecustomize`.

Without WEDGE_AGENT in the environment this does nothing but hand over. Either way the directory leaves
`sys.path`, so that the program sees the path that it would have seen without it; child processes find it
through PYTHONPATH.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))

if os.environ.get("WEDGE_AGENT"):
    import wedge_agent  # type: ignore[import-not-found]

    wedge_agent.start(os.environ["WEDGE_AGENT"])

sys.path[:] = [entry for entry in sys.path if entry != _HERE]
_ours = sys.modules.pop(__name__)
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  # the user's own, now that this one is out of the way
except ImportError as absent:
    sys.modules[__name__] = _ours
    if absent.name != "sitecustomize":
        raise
