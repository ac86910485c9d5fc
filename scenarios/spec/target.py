"""A target file: everything that is special about one server, as data.

Text may hold placeholders: `{python}`, `{here}` (the file's folder), `{port:NAME}` (a free port, the same
wherever the name stands), the named groups of the ready line, `{n}` (a call's number), and `{CLIENT.KEY}`
(a key of the line that a client printed). Double braces are plain braces.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Role = Literal["liveness", "readiness"]
Connection = Literal["fresh", "kept"]
Until = Literal["headers", "message", "end"]


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the server counts as started: `line` (a regex that one line of stdout matches, whose named groups
    become placeholders), then `url` (answers below 400). At least one of them."""

    line: str | None = None
    url: str | None = None


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to start the server. `stop_within_s`: SIGTERM first, SIGKILL after this. `args` are behind the
    command of a loaded target already.

    `requires`: packages for an environment of the target's own, whose python `{python}` then is; with
    `surroundings` it also sees the packages of the one that runs `wedge`. `needs`: what the machine must
    have; where it has not, the target is skipped with the reason. `open_files`: how many files each of its
    processes may have open, soft and hard; a lower hard limit of the machine stands.
    """

    name: str
    command: tuple[str, ...]
    ready: Ready
    args: tuple[str, ...] = ()
    summary: str = ""
    env: dict[str, str] = {}
    cwd: str = "."
    ready_within_s: float = 30.0
    stop_within_s: float = 3.0
    open_files: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)] | None = None
    requires: tuple[str, ...] = ()
    surroundings: bool = False
    needs: tuple[Literal["gpu", "2-gpus"], ...] = ()


class HttpExpected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A good answer: one of these statuses and, if given, a regex found in the body."""

    status: tuple[int, ...] = (200,)
    body: str | None = None


class HttpProbe(msgspec.Struct, frozen=True, tag="http", tag_field="kind", forbid_unknown_fields=True):
    """`GET url`. `period_s` is between probes of one connection kind; the kinds are staggered."""

    name: str
    url: str
    expect: HttpExpected = HttpExpected()
    headers: dict[str, str] = {}
    budget_s: float = 2.0
    period_s: float = 0.1
    connections: tuple[Connection, ...] = ("fresh", "kept")
    watched: bool = True
    role: Role | None = None


class GrpcProbe(msgspec.Struct, frozen=True, tag="grpc", tag_field="kind", forbid_unknown_fields=True):
    """`grpc.health.v1.Health/Check` of `service`; good is one of the `expect` serving statuses. Or, where
    there is a `method`, that unary method with an empty message; good is any answer."""

    name: str
    address: str
    service: str = ""
    method: str | None = None
    expect: tuple[Literal["SERVING", "NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"], ...] = ("SERVING",)
    budget_s: float = 2.0
    period_s: float = 0.1
    connections: tuple[Connection, ...] = ("fresh", "kept")
    watched: bool = True
    role: Role | None = None


class TcpProbe(msgspec.Struct, frozen=True, tag="tcp", tag_field="kind", forbid_unknown_fields=True):
    """A connection to `address`. Good is that it is accepted; with `expect`, that this regex is found in what
    the server says, to `send` if there is one."""

    name: str
    address: str
    send: str = ""
    expect: str | None = None
    budget_s: float = 2.0
    period_s: float = 0.1
    connections: tuple[Connection, ...] = ("fresh",)
    watched: bool = True
    role: Role | None = None


class HttpCall(msgspec.Struct, frozen=True, tag="http", tag_field="kind", forbid_unknown_fields=True):
    """A request that makes the server work. Any status below 400 is an answer unless `status` says which.

    `until`: what answers it: the response's headers, the first of its body (of a stream of events), or the
    end of it. After one of the first two it is held open for `hold_s`.
    """

    name: str
    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    json: Any = None
    body: str | None = None
    status: tuple[int, ...] = ()
    until: Until = "end"
    hold_s: float = 0.0
    deadline_s: float = 30.0
    needs: str | None = None
    undo: str | None = None
    check: bool = True


class GrpcCall(msgspec.Struct, frozen=True, tag="grpc", tag_field="kind", forbid_unknown_fields=True):
    """A call, unary or a stream: its method tells. The messages' shape comes from `proto` (a path beside the
    target file), or from server reflection where there is none; `raw` is sent as it is, without either.

    `answer` is what a good response contains, of a stream its first. `until`: what answers a stream of
    answers: its headers, its first message (as a rule), or its end. After one of the first two it is held
    open for `hold_s`, requests and answers, and then cancelled.
    """

    name: str
    address: str
    method: str
    proto: str | None = None
    message: dict[str, Any] = {}
    messages: tuple[dict[str, Any], ...] = ()
    raw: str | None = None
    answer: dict[str, Any] = {}
    until: Until | None = None
    hold_s: float = 0.0
    deadline_s: float = 30.0
    needs: str | None = None
    undo: str | None = None
    check: bool = True


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A process beside the server. Prints one JSON line when ready, lives until its stdin closes. Started
    with the server, or only by the loads of a scenario."""

    name: str
    command: tuple[str, ...]
    when: Literal["server", "scenario"] = "server"
    env: dict[str, str] = {}
    ready_within_s: float = 15.0


class ProcessSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to tell which of the target's processes is meant: every key given must hold."""

    cmdline: str | None = None
    imports: str | None = None
    parent: str | None = None
    main: bool = False


class Leaks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Growth that is no leak in this server, and why: so many more of each are let pass, and threads
    whose name one of the regexes in `ignored_threads` matches are not counted. Nothing by default.
    """

    mappings: int = 0
    processes: int = 0
    threads: int = 0
    fds: int = 0
    ignored_threads: tuple[str, ...] = ()
    because: str = ""


Probe = HttpProbe | GrpcProbe | TcpProbe
Call = HttpCall | GrpcCall


def place(probe: Probe) -> str:
    """Where a probe asks: a URL, or HOST:PORT."""
    return probe.url if isinstance(probe, HttpProbe) else probe.address


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole target file, laid over its `base` if it has one. `expect`: what this server does under a
    suite's rows, where it is known to differ from what the suite expects of a server that nothing is known
    about (`"gil.hold" = "dark"`)."""

    target: Start
    probe: tuple[Probe, ...]
    call: tuple[Call, ...] = ()
    client: tuple[Client, ...] = ()
    sites: dict[str, str] = {}
    processes: dict[str, ProcessSelector] = {}
    leaks: Leaks = Leaks()
    expect: dict[str, Literal["lit", "dark"]] = {}
    base: str | None = None

    @property
    def name(self) -> str:
        """The name scenarios carry after the `@`."""
        return self.target.name
