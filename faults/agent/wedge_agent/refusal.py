"""How the target's side says that it cannot do what was asked."""

from __future__ import annotations


class Refused(Exception):
    """`kind` names the controller's exception, `near` the names that may have been meant."""

    def __init__(self, kind: str, message: str, near: list[str] | None = None) -> None:
        self.kind, self.message, self.near = kind, message, near or []
        super().__init__(message)
