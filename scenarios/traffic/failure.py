"""How a call fails."""

from __future__ import annotations

from scenarios.errors import ScenariosError


class CallFailed(ScenariosError):
    """The call ended without the answer it should have had; the message is what the server said."""
