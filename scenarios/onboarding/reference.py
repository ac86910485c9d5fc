"""What each key of a target file means, in a line: shown by editors, and by the reference page in `docs/`."""

from __future__ import annotations

from collections.abc import Mapping

_WATCHING: Mapping[str, str] = {
    "name": "What reports call this endpoint, such as `http /health`.",
    "budget_s": "Seconds within which every probe must be answered for the server to be lit.",
    "period_s": "Seconds between probes of one kind of connection.",
    "connections": "Probe over a new connection each time, over one that is kept open, or over both.",
    "watched": "Whether this endpoint decides between lit and dark; false to look at it without judging.",
    "role": "What a kubelet asks this endpoint for; its restarts and flips are computed from it.",
}

_CALLING: Mapping[str, str] = {
    "name": "What suites, `needs` and `undo` call it.",
    "deadline_s": "Seconds after which the call is given up.",
    "needs": "The call that must have succeeded before, with the same {n}.",
    "undo": "The call that takes this one back, with the same {n}.",
    "check": "Whether `wedge target check` makes this call; false for one that harms the server.",
}

KEYS: Mapping[str, Mapping[str, str]] = {
    "Target": {
        "base": "The target file that this one is laid over: a path, or the name of a shipped target.",
        "target": "How to start the server.",
        "probe": "The endpoints that are watched, from outside, while a fault bites.",
        "call": "The requests that make the server work, to pile up under a fault.",
        "client": "Processes beside the server that act as its real clients.",
        "sites": 'Names for places in the code where calls can be broken: `name = "module:qualname"`.',
        "processes": "Names for the server's processes, and how to tell which is which.",
        "leaks": "Growth that is no leak in this server, and why.",
        "expect": 'What this server is known to do under a suite\'s row: `"gil.hold" = "dark"`.',
    },
    "Start": {
        "name": "The name that scenarios carry after the @.",
        "summary": "One line about this server.",
        "command": "The program and its arguments. {python}, {here} and {port:NAME} are filled in.",
        "ready": "When the server counts as started.",
        "args": "More arguments, behind the command; above all behind that of a `base`.",
        "env": "Environment variables, over those that wedge itself runs with.",
        "cwd": "The working directory, relative to this file.",
        "ready_within_s": "Seconds it may take to get ready.",
        "stop_within_s": "Seconds between SIGTERM and SIGKILL at the end.",
        "open_files": "How many files a process of it may have open, unless the machine allows fewer.",
        "requires": "Packages for an environment of its own, whose python is {python}; `-r FILE` for a file.",
        "surroundings": "Whether that environment also sees the packages of the one that runs wedge.",
        "needs": "What the machine must have; where it has not, the target is skipped with the reason.",
    },
    "Ready": {
        "line": "A regular expression for one line of its stdout; named groups become placeholders.",
        "url": "A URL that answers below 400 once it is ready; asked after `line`, if there is one.",
    },
    "HttpProbe": {
        **_WATCHING,
        "kind": "An HTTP GET.",
        "url": "What is asked.",
        "expect": "What a good answer is; status 200 unless it says otherwise.",
        "headers": "Headers to send along.",
    },
    "HttpExpected": {
        "status": "Statuses that are good.",
        "body": "A regular expression that is found in a good answer's body.",
    },
    "GrpcProbe": {
        **_WATCHING,
        "kind": "A gRPC health check (grpc.health.v1).",
        "address": "HOST:PORT.",
        "service": "The service that is asked about; empty for the server as a whole.",
        "method": "A unary method, package.Service/Method, to ask with an empty message instead.",
        "expect": "Serving statuses that are good.",
    },
    "TcpProbe": {
        **_WATCHING,
        "kind": "A TCP connection. Give `expect`: the kernel accepts connections for a stuck process too.",
        "address": "HOST:PORT.",
        "send": "What is sent when the connection is there; text, or base64:….",
        "expect": "A regular expression found in what comes back; without it, being accepted is enough.",
    },
    "HttpCall": {
        **_CALLING,
        "kind": "An HTTP request.",
        "url": "What is called. {n} is the number of the call.",
        "method": "GET, POST, …",
        "headers": "Headers to send along.",
        "json": "A body to send as JSON.",
        "body": "A body to send as it is.",
        "status": "Statuses that are good; any below 400 unless given.",
        "until": "What answers it: the headers, the first of the body (of a stream of events), or its end.",
        "hold_s": "Seconds that a stream is kept open after that, before it counts as answered.",
    },
    "GrpcCall": {
        **_CALLING,
        "kind": "A gRPC call, unary or a stream: the method tells which.",
        "address": "HOST:PORT.",
        "method": "package.Service/Method.",
        "proto": "The .proto with the method, relative to this file; without it, reflection is asked.",
        "message": "The request, as a table. Bytes are text, or base64:….",
        "messages": "The requests, each a table, where the method takes a stream of them.",
        "raw": "The request as bytes (text, or base64:…), where there is neither a .proto nor reflection.",
        "answer": "What a good response contains; of a stream of them, the first.",
        "until": "What answers a stream: its headers, its first message (unless given), or its end.",
        "hold_s": "Seconds that a stream is kept open after that, before it counts as answered.",
    },
    "Client": {
        "name": "Keys of the line it prints become {NAME.KEY}.",
        "command": "The program and its arguments.",
        "when": 'Started with the server, or ("scenario") only by a suite that loads the server with it.',
        "env": "Environment variables, over those that wedge itself runs with.",
        "ready_within_s": "Seconds until it must have printed its line.",
    },
    "ProcessSelector": {
        "cmdline": "A regular expression found in its command line.",
        "imports": "A module that it has imported.",
        "parent": "The name of the process above it.",
        "main": "Whether it is the topmost one.",
    },
    "Leaks": {
        "mappings": "Shared memory mappings.",
        "processes": "Processes.",
        "threads": "Threads.",
        "fds": "Open files and sockets.",
        "ignored_threads": "Regular expressions for names of threads that are not counted.",
        "because": "Why that is no leak.",
    },
}
"""By the name of the struct in `scenarios.spec.target`, then by key."""


def words(struct: str, key: str) -> str:
    """What the key means, or nothing where nobody has said it yet."""
    return KEYS.get(struct, {}).get(key, "")
