"""What every test may rely on."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background ignores SIGINT, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
