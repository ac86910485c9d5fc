"""The messages between a controller and an agent (the sidecar is one too), and how they are written.

Both sides use this file, so what one side writes the other side can read: the controller imports it as it
is, the agent loads it with its first request. It needs the standard library alone, and nothing that takes
long to import.

A message is one JSON object behind its length in bytes (4 bytes, big-endian):

    {"type": "release", "number": 3, "fds": 0, "fields": {"fault": "f1"}}

`number` counts a controller's requests from 1, and an answer has the number of its request; what an agent
says without being asked has 0. `fds` is how many descriptors come with it (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

VERSION = 2
"""Told in the hello. A controller has nothing to do with an agent of another version."""

UNKNOWN_SITE, BAD_TRIGGER, ARM_FAILED, ERROR = "UnknownSite", "BadTrigger", "ArmFailed", "Error"
"""The kinds of refusal. `ERROR` is an exception that nobody expected."""


class ProtocolError(ValueError):
    """Raised for bytes that are no message: of an unknown type, or without exactly its type's fields."""


class Refused(Exception):
    """Raised in the agent when it cannot do what was asked, and, for the same reason, by who asked it.

    `kind` is one of the kinds above, `near` the names that may have been meant.
    """

    def __init__(self, kind: str, message: str, near: list[str] | None = None) -> None:
        self.kind, self.message, self.near = kind, message, near or []
        super().__init__(message)


class Message:
    """What goes over the connection. `NAME` is its type there, and its slots are its fields."""

    __slots__ = ()
    if TYPE_CHECKING:
        NAME: ClassVar[str]


class Request(Message):
    """From the controller; has exactly one answer."""

    __slots__ = ()


class Answer(Message):
    """From the agent, to a request."""

    __slots__ = ()


class Event(Message):
    """From the agent, unasked."""

    __slots__ = ()


class Ping(Request):
    """Answered `Done`, which proves that the interpreter runs Python in a thread other than the busy one."""

    __slots__ = ()
    NAME = "ping"


class FindImported(Request):
    """Answered `Imported`: which of the modules `names` the process has finished importing."""

    __slots__ = ("names",)
    NAME = "find_imported"

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Arm(Request):
    """Answered `Armed`: install a fault that does nothing until `Start`. Refused, it leaves nothing behind.

    `fault` is its id, `name` its name in the catalogue, `source` the text of its file `origin`, and
    `function` what is called there. `targets` are the processes that a fault from outside is done to, as
    (pid, start time in clock ticks since boot). The lease ends at `until_ns` on the monotonic clock. Two
    descriptors come with it: the agent's end of the lifeline, and the page.
    """

    __slots__ = ("fault", "function", "name", "origin", "params", "source", "targets", "trigger", "until_ns")
    NAME = "arm"

    def __init__(
        self,
        *,
        fault: str,
        name: str,
        params: dict[str, Any],
        trigger: dict[str, Any],
        source: str,
        origin: str,
        function: str,
        targets: list[tuple[int, int]],
        until_ns: int,
    ) -> None:
        self.fault, self.name, self.params, self.trigger = fault, name, params, trigger
        self.source, self.origin, self.function = source, origin, function
        self.targets, self.until_ns = targets, until_ns


class Start(Request):
    """Answered `Done`: let an armed fault act.

    With `when_done` the answer, or the refusal, comes when the fault has done what it does by itself; else
    before that, since a fault that takes the GIL lets nobody answer.
    """

    __slots__ = ("fault", "when_done")
    NAME = "start"

    def __init__(self, fault: str, when_done: bool) -> None:
        self.fault, self.when_done = fault, when_done


class Release(Request):
    """Answered `Released`: take a fault out of the process. One that is not there is released already."""

    __slots__ = ("fault",)
    NAME = "release"

    def __init__(self, fault: str) -> None:
        self.fault = fault


class ReadStacks(Request):
    """Answered `Stacks`: where the threads stand that are in a fault right now."""

    __slots__ = ()
    NAME = "read_stacks"


class Done(Answer):
    """It was done, and there is no more to say."""

    __slots__ = ()
    NAME = "done"


class Imported(Answer):
    """Those of the modules asked for that are imported."""

    __slots__ = ("names",)
    NAME = "imported"

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Armed(Answer):
    """`notes` are for a person (what was patched, where a relay listens), `details` the same for programs."""

    __slots__ = ("details", "notes")
    NAME = "armed"

    def __init__(self, notes: list[str], details: dict[str, Any]) -> None:
        self.notes, self.details = notes, details


class Released(Answer):
    """`notes` has what the fault found out, and what could not be undone."""

    __slots__ = ("notes",)
    NAME = "released"

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes


class Stacks(Answer):
    """For each thread that is in a fault, its number as the kernel has it, and its calls, the innermost
    first: function, file, line (0 where unknown), and the text of that line.
    """

    __slots__ = ("threads",)
    NAME = "stacks"

    def __init__(self, threads: list[tuple[int, list[tuple[str, str, int, str]]]]) -> None:
        self.threads = threads


class Refusal(Answer):
    """It was not done; the fields are those of `Refused`."""

    __slots__ = ("kind", "message", "near")
    NAME = "refusal"

    def __init__(self, kind: str, message: str, near: list[str]) -> None:
        self.kind, self.message, self.near = kind, message, near


class Hello(Event):
    """The first message of an agent; the controller asks the kernel for all else. `python` is its version."""

    __slots__ = ("pid", "python", "version")
    NAME = "hello"

    def __init__(self, version: int, pid: int, python: str) -> None:
        self.version, self.pid, self.python = version, pid, python


class Failed(Event):
    """A fault cannot work here after all, found out after it was armed; the rest as in `Refused`."""

    __slots__ = ("fault", "kind", "message", "near")
    NAME = "failed"

    def __init__(self, fault: str, kind: str, message: str, near: list[str]) -> None:
        self.fault, self.kind, self.message, self.near = fault, kind, message, near


class Expired(Event):
    """A fault's lease ran out, and it was taken out; `notes` as in `Released`."""

    __slots__ = ("fault", "notes")
    NAME = "expired"

    def __init__(self, fault: str, notes: list[str]) -> None:
        self.fault, self.notes = fault, notes


_REQUESTS = (Ping, FindImported, Arm, Start, Release, ReadStacks)
_ANSWERS = (Done, Imported, Armed, Released, Stacks, Refusal)
_EVENTS = (Hello, Failed, Expired)
_TYPES = {kind.NAME: kind for kind in (*_REQUESTS, *_ANSWERS, *_EVENTS)}


class Envelope:
    """A message that has arrived, not read yet: `number` and `fds` are known whatever is in it."""

    __slots__ = ("_fields", "_type", "fds", "number")

    def __init__(self, body: bytes) -> None:
        """Raises ProtocolError."""
        try:
            table = json.loads(body)
            self.number, self.fds = int(table["number"]), int(table["fds"])
            self._type, self._fields = str(table["type"]), dict(table["fields"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{body[:80]!r} is no message: {type(error).__name__}: {error}") from None

    def message(self) -> Message:
        """What is in it. Raises ProtocolError."""
        kind = _TYPES.get(self._type)
        if kind is None:
            raise ProtocolError(f"no message is called {self._type!r}; there are {', '.join(sorted(_TYPES))}")
        if set(self._fields) != set(kind.__slots__):
            wanted, found = ", ".join(kind.__slots__) or "none", ", ".join(self._fields) or "none"
            raise ProtocolError(f"the message {self._type!r} has the fields {wanted}; these came: {found}")
        make: Any = kind
        message: Message = make(**self._fields)
        return message


def encode(message: Message, *, number: int = 0, fds: int = 0) -> bytes:
    """The message as bytes, without the length in front."""
    names: tuple[str, ...] = type(message).__slots__
    fields = {name: getattr(message, name) for name in names}
    return json.dumps({"type": message.NAME, "number": number, "fds": fds, "fields": fields}).encode()
