"""A target file: everything that is special about one server, as data.

The descriptions of the keys are the only ones: the JSON Schema (`wedge target schema`), the reference page
`docs/target-file.md` and the file that `wedge target init` writes all take them from here. The first
paragraph of a struct with a `kind` describes that kind.

Text may hold placeholders: `{python}`, `{here}` (the file's folder), `{port:NAME}` (a free port, the same
wherever the name stands), the named groups of the ready line, `{n}` (a call's number), and `{CLIENT.KEY}` (a
key of the line that a client printed). Double braces are plain braces.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from scenarios.record import Expectation

Role = Literal["liveness", "readiness"]
ConnectionKind = Literal["fresh", "kept"]
Until = Literal["headers", "message", "end"]

REDIRECTS = frozenset((301, 302, 303, 307, 308))
"""Statuses that send whoever asks elsewhere."""

_EndpointName = Annotated[str, Meta(description="What reports call this endpoint, such as `http /health`.")]
Positive = Annotated[float, Meta(gt=0)]
"""Seconds, more than none."""

_Budget = Annotated[
    Positive, Meta(description="Seconds within which every probe must be answered for the server to be lit.")
]
_Period = Annotated[Positive, Meta(description="Seconds between probes of one kind of connection.")]
_Connections = Annotated[
    tuple[ConnectionKind, ...],
    Meta(description="Probe over a new connection each time, over one that is kept open, or over both."),
]
_Watched = Annotated[
    bool,
    Meta(
        description="Whether this endpoint decides between lit and dark; false to look at it without judging."
    ),
]
_Asker = Annotated[
    Role | None,
    Meta(description="What a kubelet asks this endpoint for; its restarts and flips are computed from it."),
]
_Address = Annotated[str, Meta(description="HOST:PORT.")]
_Endpoint = Annotated[str, Meta(description="HOST:PORT, or unix:/PATH for a unix socket.")]

_CallName = Annotated[str, Meta(description="What suites, `needs` and `undo` call it.")]
_Deadline = Annotated[Positive, Meta(description="Seconds after which the call is given up.")]
_Needs = Annotated[
    str | None, Meta(description="The call that must have succeeded before, with the same {n}.")
]
_Undo = Annotated[str | None, Meta(description="The call that takes this one back, with the same {n}.")]
_Checked = Annotated[
    bool,
    Meta(description="Whether `wedge target check` makes this call; false for one that harms the server."),
]
_Hold = Annotated[
    float,
    Meta(ge=0, description="Seconds that a stream is kept open after that, before it counts as answered."),
]
_Headers = Annotated[dict[str, str], Meta(description="Headers to send along.")]
_Environment = Annotated[
    dict[str, str], Meta(description="Environment variables, over those that wedge itself runs with.")
]


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the server counts as started: `line` first, then `url`. At least one of them is given."""

    line: Annotated[
        str | None,
        Meta(
            description="A regular expression for one line of its stdout or stderr; named groups become "
            "placeholders."
        ),
    ] = None
    url: Annotated[
        str | None,
        Meta(
            description="A URL that answers below 400 once it is ready; asked after `line`, if there is one."
        ),
    ] = None


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to start the server, and how it ends: SIGTERM first, SIGKILL after `stop_within_s`.

    `args` are part of the command of a loaded target already.
    """

    name: Annotated[str, Meta(description="The name that scenarios carry after the @.")]
    command: Annotated[
        tuple[str, ...],
        Meta(
            description="The program and its arguments. {python}, {here} and {port:NAME} are filled in.",
        ),
    ]
    ready: Annotated[Ready, Meta(description="When the server counts as started.")]
    args: Annotated[
        tuple[str, ...],
        Meta(description="More arguments, behind the command; above all behind that of a `base`."),
    ] = ()
    summary: Annotated[str, Meta(description="One line about this server.")] = ""
    env: _Environment = {}
    cwd: Annotated[str, Meta(description="The working directory, relative to this file.")] = "."
    ready_within_s: Annotated[Positive, Meta(description="Seconds it may take to get ready.")] = 30.0
    stop_within_s: Annotated[
        float, Meta(ge=0, description="Seconds between SIGTERM and SIGKILL at the end.")
    ] = 3.0
    admits_within_s: Annotated[
        Positive,
        Meta(
            description="Seconds within which a readiness probe must say that the server is not ready, once "
            "calls are stuck in it; a server that does not is lying."
        ),
    ] = 10.0
    open_files: Annotated[
        Annotated[int, Meta(ge=16, le=1_000_000)] | None,
        Meta(
            description="How many files each process of it may have open, soft and hard limit; a lower hard "
            "limit of the machine stands."
        ),
    ] = None
    requires: Annotated[
        tuple[str, ...],
        Meta(
            description="Packages for an environment of its own, whose python is {python}; `-r FILE` for a "
            "file."
        ),
    ] = ()
    surroundings: Annotated[
        bool,
        Meta(description="Whether that environment also sees the packages of the one that runs wedge."),
    ] = False
    needs: Annotated[
        tuple[Literal["gpu", "2-gpus"], ...],
        Meta(
            description="What the machine must have; where it has not, the target is skipped with the reason."
        ),
    ] = ()


class ExpectedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A good answer: one of these statuses and, if given, a regular expression found in the body."""

    status: Annotated[
        tuple[int, ...],
        Meta(
            description="Statuses that are good. A redirect on the same host is followed, unless its status "
            "is among them."
        ),
    ] = (200,)
    body: Annotated[
        str | None, Meta(description="A regular expression that is found in a good answer's body.")
    ] = None


class HttpProbe(msgspec.Struct, frozen=True, tag="http", tag_field="kind", forbid_unknown_fields=True):
    """An HTTP request, GET unless it says otherwise, sent as it is written.

    Certificates are not verified, as by a kubelet. A kubelet asks by GET and over TCP: other probes are kept
    out of its replay. The kinds of connection are staggered: each probes once in `period_s`, not both at the
    same moment.
    """

    name: _EndpointName
    url: Annotated[str, Meta(description="What is asked: http:// or https://, percent-encoded.")]
    address: Annotated[
        str | None,
        Meta(description="unix:/PATH, for a server on a unix socket; `url` says http://localhost/… then."),
    ] = None
    expect: Annotated[
        ExpectedAnswer, Meta(description="What a good answer is; status 200 unless it says otherwise.")
    ] = ExpectedAnswer()
    method: Annotated[str, Meta(description="GET, HEAD, POST, …")] = "GET"
    headers: _Headers = {}
    json: Annotated[Any, Meta(description="A body to send as JSON.")] = None
    body: Annotated[str | None, Meta(description="A body to send as it is; text, or base64:….")] = None
    budget_s: _Budget = 2.0
    period_s: _Period = 0.1
    connections: _Connections = ("fresh", "kept")
    watched: _Watched = True
    role: _Asker = None


class GrpcProbe(msgspec.Struct, frozen=True, tag="grpc", tag_field="kind", forbid_unknown_fields=True):
    """A gRPC health check (grpc.health.v1), without TLS, as a kubelet's.

    With `method`, that unary method is called with an empty message instead, and any answer is good.
    """

    name: _EndpointName
    address: _Endpoint
    service: Annotated[
        str, Meta(description="The service that is asked about; empty for the server as a whole.")
    ] = ""
    method: Annotated[
        str | None,
        Meta(
            description="A unary method, package.Service/Method, to ask with an empty message instead; any "
            "answer is good."
        ),
    ] = None
    expect: Annotated[
        tuple[Literal["SERVING", "NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"], ...],
        Meta(description="Serving statuses that are good."),
    ] = ("SERVING",)
    budget_s: _Budget = 2.0
    period_s: _Period = 0.1
    connections: _Connections = ("fresh", "kept")
    watched: _Watched = True
    role: _Asker = None


class TcpProbe(msgspec.Struct, frozen=True, tag="tcp", tag_field="kind", forbid_unknown_fields=True):
    """A TCP connection. Give `expect`: the kernel accepts connections for a stuck process too.

    A server may speak first: then `expect` needs no `send`.
    """

    name: _EndpointName
    address: _Endpoint
    send: Annotated[
        str, Meta(description="What is sent when the connection is there; text, or base64:….")
    ] = ""
    expect: Annotated[
        str | None,
        Meta(
            description="A regular expression found in what comes back; without it, being accepted is enough."
        ),
    ] = None
    budget_s: _Budget = 2.0
    period_s: _Period = 0.1
    connections: _Connections = ("fresh",)
    watched: _Watched = True
    role: _Asker = None


class CommandProbe(msgspec.Struct, frozen=True, tag="command", tag_field="kind", forbid_unknown_fields=True):
    """A command that ends with status 0 while the server is well, as a kubelet's `exec`.

    It runs in the folder of this file, without input, and what it prints is not read. Whatever it started is
    killed with it, at its end or when it has run for one and a half budgets.
    """

    connections: ClassVar[tuple[ConnectionKind, ...]] = ("fresh",)

    name: _EndpointName
    command: Annotated[
        tuple[str, ...], Meta(description="The program and its arguments, as they are: no shell reads them.")
    ]
    budget_s: _Budget = 2.0
    period_s: Annotated[Positive, Meta(description="Seconds between two starts of the command.")] = 0.25
    watched: _Watched = True
    role: _Asker = None


class HttpCall(msgspec.Struct, frozen=True, tag="http", tag_field="kind", forbid_unknown_fields=True):
    """An HTTP request.

    What was answered before its end (`until`) is held open for `hold_s`, and then closed.
    """

    name: _CallName
    url: Annotated[str, Meta(description="What is called. {n} is the number of the call.")]
    method: Annotated[str, Meta(description="GET, POST, …")] = "POST"
    headers: _Headers = {}
    json: Annotated[Any, Meta(description="A body to send as JSON.")] = None
    body: Annotated[str | None, Meta(description="A body to send as it is.")] = None
    status: Annotated[
        tuple[int, ...], Meta(description="Statuses that are good; any below 400 unless given.")
    ] = ()
    until: Annotated[
        Until,
        Meta(
            description="What answers it: the headers, the first of the body (of a stream of events), or its "
            "end."
        ),
    ] = "end"
    hold_s: _Hold = 0.0
    deadline_s: _Deadline = 30.0
    needs: _Needs = None
    undo: _Undo = None
    check: _Checked = True


class GrpcCall(msgspec.Struct, frozen=True, tag="grpc", tag_field="kind", forbid_unknown_fields=True):
    """A gRPC call, unary or a stream: the method tells which.

    The shape of its messages comes from `proto`, or from server reflection where there is none; `raw` is sent
    as it is, without either. A stream that was answered before its end (`until`) is held open for `hold_s`,
    its requests and its answers, and then cancelled.
    """

    name: _CallName
    address: _Address
    method: Annotated[str, Meta(description="package.Service/Method.")]
    proto: Annotated[
        str | None,
        Meta(
            description="The .proto with the method, relative to this file; without it, reflection is asked."
        ),
    ] = None
    message: Annotated[
        dict[str, Any], Meta(description="The request, as a table. Bytes are text, or base64:….")
    ] = {}
    messages: Annotated[
        tuple[dict[str, Any], ...],
        Meta(description="The requests, each a table, where the method takes a stream of them."),
    ] = ()
    raw: Annotated[
        str | None,
        Meta(
            description="The request as bytes (text, or base64:…), where there is neither a .proto nor "
            "reflection."
        ),
    ] = None
    answer: Annotated[
        dict[str, Any], Meta(description="What a good response contains; of a stream of them, the first.")
    ] = {}
    until: Annotated[
        Until | None,
        Meta(description="What answers a stream: its headers, its first message (unless given), or its end."),
    ] = None
    hold_s: _Hold = 0.0
    deadline_s: _Deadline = 30.0
    needs: _Needs = None
    undo: _Undo = None
    check: _Checked = True


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A process beside the server. It prints one JSON line when it is ready, and lives until its stdin
    closes.
    """

    name: Annotated[str, Meta(description="Keys of the line it prints become {NAME.KEY}.")]
    command: Annotated[tuple[str, ...], Meta(description="The program and its arguments.")]
    when: Annotated[
        Literal["server", "scenario"],
        Meta(
            description='Started with the server, or ("scenario") only by a suite that loads the server with '
            "it."
        ),
    ] = "server"
    env: _Environment = {}
    ready_within_s: Annotated[Positive, Meta(description="Seconds until it must have printed its line.")] = (
        15.0
    )


class ProcessSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to tell which of the target's processes is meant: every key given must hold."""

    cmdline: Annotated[
        str | None,
        Meta(description="A regular expression found in its command line, or in the title that ps shows."),
    ] = None
    imports: Annotated[str | None, Meta(description="A module that it has imported.")] = None
    parent: Annotated[str | None, Meta(description="The name of the process above it.")] = None
    port: Annotated[
        int | str | None,
        Meta(
            description="A TCP port on which it listens: a number, or text with placeholders, such as "
            "`{port:http}`."
        ),
    ] = None
    main: Annotated[
        bool | Literal[0, 1] | None,
        Meta(description="true: the topmost one; false: any other. 1 and 0 mean the same."),
    ] = None


class LeakAllowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Growth that is no leak in this server: so many more of each are let pass, by default none."""

    mappings: Annotated[int, Meta(description="Shared memory mappings.")] = 0
    processes: Annotated[int, Meta(description="Processes.")] = 0
    threads: Annotated[int, Meta(description="Threads.")] = 0
    fds: Annotated[int, Meta(description="Open files and sockets.")] = 0
    ignored_threads: Annotated[
        tuple[str, ...],
        Meta(description="Regular expressions for names of threads that are not counted."),
    ] = ()
    because: Annotated[str, Meta(description="Why that is no leak.")] = ""


Probe = HttpProbe | GrpcProbe | TcpProbe | CommandProbe
Call = HttpCall | GrpcCall


def address(probe: Probe) -> str:
    """Where a probe asks, for people: a URL, HOST:PORT, unix:/PATH, or the command."""
    if isinstance(probe, CommandProbe):
        return " ".join(probe.command)
    if isinstance(probe, HttpProbe):
        return probe.url if probe.address is None else f"{probe.url} over {probe.address}"
    return probe.address


def not_replayed(probe: Probe) -> str | None:
    """Why the answers of a probe are not those that a kubelet would get, in words for after its name; None
    where they are."""
    if isinstance(probe, CommandProbe):
        return "runs a command, and not in the container"
    if "fresh" not in probe.connections:
        return "is asked over a kept connection alone, and a kubelet makes a new one each time"
    if isinstance(probe, HttpProbe):
        if probe.method != "GET":
            return f"asks by {probe.method}, and a kubelet by GET"
        if redirects := REDIRECTS.intersection(probe.expect.status):
            return f"expects a redirect ({min(redirects)}), which a kubelet follows on the same host"
    elif isinstance(probe, GrpcProbe) and probe.method is not None:
        return "calls a method, and a kubelet the health service"
    if probe.address is not None and probe.address.startswith("unix:"):
        return "asks over a unix socket, and a kubelet over TCP"
    return None


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this server is known to do under a row, since when, and why: `wedge pin` writes it."""

    seen: Annotated[Expectation, Meta(description="What is seen: lit, dark, partial or lying.")]
    since: Annotated[datetime.date | None, Meta(description="The day on which it was pinned.")] = None
    because: Annotated[str, Meta(description="The reason, or what was seen then.")] = ""

    @property
    def words(self) -> str:
        """`dark since 2025-11-27 (…)`."""
        since = f" since {self.since.isoformat()}" if self.since is not None else ""
        return f"{self.seen}{since}" + (f" ({self.because})" if self.because else "")


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole target file, laid over its `base` if it has one."""

    start: Annotated[Launch, Meta(description="How to start the server.")] = msgspec.field(name="target")
    probe: Annotated[
        tuple[Probe, ...],
        Meta(description="The endpoints that are watched, from outside, while a fault bites."),
    ]
    call: Annotated[
        tuple[Call, ...],
        Meta(description="The requests that make the server work, to pile up under a fault."),
    ] = ()
    client: Annotated[
        tuple[Client, ...],
        Meta(description="Processes beside the server that act as its real clients."),
    ] = ()
    sites: Annotated[
        dict[str, str],
        Meta(
            description='Names for places in the code where calls can be broken: `name = "module:qualname"`.'
        ),
    ] = {}
    processes: Annotated[
        dict[str, ProcessSelector],
        Meta(description="Names for the server's processes, and how to tell which is which."),
    ] = {}
    leaks: Annotated[LeakAllowance, Meta(description="Growth that is no leak in this server, and why.")] = (
        LeakAllowance()
    )
    expect: Annotated[
        dict[str, Expectation | Pin],
        Meta(
            description="What this server is known to do under a suite's row, where it differs from what the "
            'suite expects of a server that nothing is known about: `"gil.hold" = "dark"`.'
        ),
    ] = {}
    base: Annotated[
        str | None,
        Meta(
            description="The target file that this one is laid over: a path, or the name of a shipped target."
        ),
    ] = None

    @property
    def name(self) -> str:
        """The name scenarios carry after the `@`."""
        return self.start.name
