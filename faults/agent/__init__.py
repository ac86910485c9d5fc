"""What runs inside a target: a directory for PYTHONPATH, stdlib only, Python 3.8 to 3.13.

The interpreter imports `sitecustomize` from here as it starts. Nothing in this directory imports from
`faults`; the controller imports from it the messages, the layout of the shared page, and these names.
"""

from pathlib import Path

AGENT_DIRECTORY = Path(__file__).parent
"""The directory that goes on PYTHONPATH."""

AGENT_VARIABLE = "FAULTS_AGENT"
"""The environment variable with the path of the controller's socket; without it the agent does nothing."""

OLDEST_PYTHON = (3, 8)
