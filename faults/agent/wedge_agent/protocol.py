"""The messages between a controller and an agent (the sidecar is one too), and their encoding.

Both sides use this file, so they always agree: the controller imports it, and the agent loads it with its
first request. It uses only modules of the standard library that import quickly.

A message is one JSON object behind its length in bytes (4 bytes, big-endian):

    {"type": "release", "number": 3, "fds": 0, "fields": {"fault": "f1"}}

`number` counts a controller's requests from 1, and an answer has the number of its request; an agent's events
have 0. `fds` is how many descriptors come with the message (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_):
        """Has no effect at run time; a type checker derives constructors from the annotations."""
        return lambda kind: kind


VERSION = 3
"""Told in the hello. A controller has nothing to do with an agent of another version."""

UNKNOWN_SITE, BAD_TRIGGER, ARM_FAILED, ERROR = "UnknownSite", "BadTrigger", "ArmFailed", "Error"
"""The kinds of refusal. `ERROR` is an exception that nobody expected."""


class ProtocolError(ValueError):
    """Raised for bytes that are not a message: an unknown type, or not exactly the fields of its type."""


class Refused(Exception):
    """Raised in the agent if it cannot carry out a request, and then in the controller that sent the request.

    `kind` is one of the kinds above; `near` are known names similar to an unknown one.
    """

    def __init__(self, kind: str, message: str, near: list[str] | None = None) -> None:
        self.kind, self.message, self.near = kind, message, near or []
        super().__init__(message)


_types: dict[str, type[Message]] = {}


@dataclass_transform(kw_only_default=True)
class Message:
    """Anything sent over the connection. The annotations are the fields, and each of them is required."""

    NAME: ClassVar[str]
    """Its type there: its class in small letters."""

    def __init_subclass__(cls) -> None:
        cls.NAME = cls.__name__.lower()
        _types[cls.NAME] = cls

    def __init__(self, **fields: Any) -> None:
        """Raises ProtocolError."""
        wanted = vars(type(self)).get("__annotations__", {})
        if fields.keys() != wanted.keys():
            has, came = ", ".join(wanted) or "no fields", ", ".join(fields) or "none"
            raise ProtocolError(f"the message {self.NAME!r} has {has}; what came has {came}")
        self.__dict__.update(fields)


class Request(Message):
    """From the controller; has exactly one answer."""


class Answer(Message):
    """From the agent, to a request."""


class Event(Message):
    """From the agent, unasked."""


class Ping(Request):
    """Answered `Done`, which proves that the interpreter can run Python in the agent's thread."""


class FindImported(Request):
    """Answered `Imported`: which of the modules `names` the process has finished importing."""

    names: list[str]


class Arm(Request):
    """Answered `Armed`: install a fault that does nothing until `Start`. A refusal leaves nothing behind.

    `fault` is its id, `name` its name in the catalogue, `source` the text of its file `origin`, and
    `function` the function to call there. `targets` are the processes on which a fault acts from outside, as
    (pid, start time in clock ticks since boot). The lease ends at `until_ns` on the monotonic clock. Two
    descriptors come with it: the agent's end of the lifeline, and the page.
    """

    fault: str
    name: str
    params: dict[str, Any]
    trigger: dict[str, Any]
    source: str
    origin: str
    function: str
    targets: list[tuple[int, int]]
    until_ns: int


class Start(Request):
    """Answered `Done`: let an armed fault act.

    With `when_done` the answer (or refusal) comes after the fault has acted, otherwise before, since nobody
    can answer under a fault that takes the GIL.
    """

    fault: str
    when_done: bool


class Release(Request):
    """Answered `Released`: remove a fault from the process. A fault that is not there counts as released."""

    fault: str


class ReadStacks(Request):
    """Answered `Stacks`: where the threads that are now in a fault stand."""


class Done(Answer):
    """The request was carried out, and there is nothing to report."""


class Imported(Answer):
    """Those of the modules asked for that are imported."""

    names: list[str]


class Armed(Answer):
    """`notes` are for a person (what was patched, where a relay listens), `details` the same for programs."""

    notes: list[str]
    details: dict[str, Any]


class Released(Answer):
    """`notes` are the fault's findings, and what could not be undone."""

    notes: list[str]


class Stacks(Answer):
    """For each thread that is in a fault, its number as the kernel has it, and its calls, the innermost
    first: function, file, line (0 where unknown), and the text of that line.
    """

    threads: list[tuple[int, list[tuple[str, str, int, str]]]]


class Refusal(Answer):
    """The request was refused; the fields are those of `Refused`."""

    kind: str
    message: str
    near: list[str]


class Hello(Event):
    """The first message of an agent; the controller asks the kernel for all else. `python` is its version,
    `own_fds` are the descriptors that are the agent's for as long as the connection lasts.
    """

    version: int
    pid: int
    python: str
    own_fds: list[int]


class Failed(Event):
    """A fault turned out, after arming, not to work here; the other fields are those of `Refused`."""

    fault: str
    kind: str
    message: str
    near: list[str]


class Expired(Event):
    """A fault's lease ran out and the fault was removed; `notes` as in `Released`."""

    fault: str
    notes: list[str]


class Envelope:
    """A message that has arrived but is not decoded: `number` and `fds` are known whatever it contains."""

    def __init__(self, body: bytes) -> None:
        """Raises ProtocolError."""
        try:
            table = json.loads(body)
            self.number, self.fds = int(table["number"]), int(table["fds"])
            self._type, self._fields = str(table["type"]), dict(table["fields"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{body[:80]!r} is no message: {type(error).__name__}: {error}") from None

    def message(self) -> Message:
        """The decoded message. Raises ProtocolError."""
        kind: Any = _types.get(self._type)
        if kind is None:
            raise ProtocolError(f"no message is called {self._type!r}; there are {', '.join(sorted(_types))}")
        message: Message = kind(**self._fields)
        return message


def encode(message: Message, *, number: int = 0, fds: int = 0) -> bytes:
    """The message as bytes, without the length in front."""
    envelope = {"type": message.NAME, "number": number, "fds": fds, "fields": vars(message)}
    return json.dumps(envelope).encode()
