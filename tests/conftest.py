"""What every test may rely on."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background ignores these two, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
