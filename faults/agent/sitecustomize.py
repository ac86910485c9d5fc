"""Start the agent where a controller asked for it, then hand over to the user's own `sitecustomize`.

Every Python that the target starts runs this file, even one too old for the agent, so Python 2.7 can read it.
If anything keeps the agent from starting, the program runs on without it.

A sub-interpreter is left alone: Python aborts the process when one ends that has a thread of ours in it.

Without FAULTS_AGENT (or WEDGE_AGENT, its former name) in the environment this does nothing but hand over.
Either way the directory leaves `sys.path`, so that the program sees the path that it would have seen
without it; child processes find it through PYTHONPATH.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_OLDEST = (3, 8)


def _in_main_interpreter():  # type: () -> bool
    """Whether this one handles signals, which can be known in all versions; nothing is set yet to be lost."""
    import _signal  # type: ignore[import-not-found]

    try:
        _signal.set_wakeup_fd(-1)
    except ValueError:
        return False
    return True


_address = os.environ.get("FAULTS_AGENT") or os.environ.get("WEDGE_AGENT")

if _address and sys.version_info >= _OLDEST and _in_main_interpreter():
    _before = set(sys.modules)
    try:
        import wedge_agent  # type: ignore[import-not-found]

        wedge_agent.start(_address)
    except Exception:  # noqa: BLE001  # the program must not hear of it; the controller tells why there is none
        for _name in set(sys.modules) - _before:
            if _name.partition(".")[0] == "wedge_agent":
                del sys.modules[_name]

sys.path[:] = [entry for entry in sys.path if entry != _HERE]
_ours = sys.modules.pop(__name__)
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  # the user's own, now that this one is out of the way
except ImportError as absent:
    sys.modules[__name__] = _ours
    # Python 2.7 has the name only in the message.
    if getattr(absent, "name", str(absent).rpartition(" ")[2]) != "sitecustomize":
        raise
