"""What the shape of calls alone cannot say: whom they need, and which of their keys go together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from scenarios.errors import did_you_mean, nearest
from scenarios.spec.binary import misspelled
from scenarios.spec.document import Document
from scenarios.spec.target import Call, GrpcCall

METHOD = re.compile(r"/?[\w.]+/\w+")
"""`package.Service/Method`."""


def check_calls(document: Document, calls: Iterable[Call], folder: Path) -> None:
    """Raises `Malformed`. A `.proto` is sought in `folder`."""
    by_name = {call.name: call for call in calls}
    for i, call in enumerate(by_name.values()):
        for key, problem in _problems(call, by_name, folder):
            raise document.malformed(("call", i, key), problem)


def _problems(call: Call, by_name: Mapping[str, Call], folder: Path) -> Iterator[tuple[str, str]]:
    for key, other in (("needs", call.needs), ("undo", call.undo)):
        if other is not None and other not in by_name:
            hint = did_you_mean(nearest(other, by_name)) or f"; calls: {', '.join(by_name)}"
            yield key, f"no call is named {other!r}{hint}"
    seen, walk = {call.name}, call.needs
    while walk is not None:
        if walk in seen:
            yield "needs", f"{call.name!r} ends up needing itself"
        seen.add(walk)
        walk = by_name[walk].needs
    if call.hold_s < 0:
        yield "hold_s", "must not be below 0"
    if call.hold_s and call.until == "end":
        yield (
            "hold_s",
            'nothing is left to hold after the end; give `until = "headers"` or `"message"` with it',
        )
    if isinstance(call, GrpcCall):
        yield from _of_grpc(call, folder)


def _of_grpc(call: GrpcCall, folder: Path) -> Iterator[tuple[str, str]]:
    if not METHOD.fullmatch(call.method):
        yield "method", f"{call.method!r} is not package.Service/Method"
    if call.proto is not None and not (folder / call.proto).is_file():
        yield "proto", f"no such file: {folder / call.proto}"
    if call.messages and call.message:
        yield "messages", "is beside `message`; give one of them"
    if call.raw is not None:
        for key in ("proto", "message", "messages", "answer"):
            if getattr(call, key):
                yield key, f"says what `raw` bytes are not: leave out `{key}` or `raw`"
        if problem := misspelled(call.raw):
            yield "raw", problem
    if call.answer and call.until == "headers":
        yield "answer", 'headers hold no answer; give `until = "message"`'
