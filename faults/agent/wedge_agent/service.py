"""The agent's side of a controller's requests; loaded with the first of them, runs in the agent's thread."""

from __future__ import annotations

import os
import sys
import time

from . import protocol
from .protocol import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable

    from .fault import InjectedFault

_LOOKS_EVERY_MS = 5


class Service:
    """The faults armed in this process, and the answers to a controller's requests."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._faults: dict[str, InjectedFault] = {}

    def handle(self, body: bytes, descriptors: list[int]) -> None:
        """Carry out one request and answer it; takes its descriptors from the front of `descriptors`.

        Raises ProtocolError for bytes that are not a message; an unknown request is refused.
        """
        envelope = protocol.Envelope(body)
        fds = [descriptors.pop(0) for _ in range(min(envelope.fds, len(descriptors)))]
        answer: protocol.Answer | None
        try:
            answer = self._answer(envelope, fds)
        except Refused as refused:
            answer = protocol.Refusal(kind=refused.kind, message=refused.message, near=refused.near)
        except Exception as error:  # noqa: BLE001  # told to the one who asked; the program must not hear of it
            message = f"{type(error).__name__}: {error}"
            answer = protocol.Refusal(kind=protocol.ERROR, message=message, near=[])
        if answer is not None:
            self._tell(answer, envelope.number)

    def _tell(self, message: protocol.Message, number: int = 0) -> None:
        self._send(protocol.encode(message, number=number))

    def _answer(self, envelope: protocol.Envelope, fds: list[int]) -> protocol.Answer | None:
        """The answer to a request; None if it has been sent already."""
        request = envelope.message()
        if isinstance(request, protocol.Ping):
            return protocol.Done()
        if isinstance(request, protocol.FindImported):
            return protocol.Imported(names=[name for name in request.names if _is_imported(name)])
        if isinstance(request, protocol.Arm):
            return self._arm(request, fds, envelope.fds)
        if isinstance(request, protocol.Start):
            return self._start(request, envelope.number)
        if isinstance(request, protocol.Release):
            fault = self._faults.pop(request.fault, None)
            return protocol.Released(notes=[*fault.notes, *fault.release()] if fault else [])
        if isinstance(request, protocol.ReadStacks):
            return protocol.Stacks(threads=self._stacks())
        raise protocol.ProtocolError(f"the message {request.NAME!r} is no request")

    def _arm(self, request: protocol.Arm, fds: list[int], sent: int) -> protocol.Armed:
        from .fault import (
            InjectedFault,  # here, so that a process which is only asked its name need not load it
        )

        if len(fds) < sent:
            for fd in fds:
                os.close(fd)
            message = "the process has no descriptor left for the fault's lifeline"
            raise Refused(protocol.ARM_FAILED, message)
        fault = InjectedFault(request, fds, self._failed)
        self._faults[fault.id] = fault  # already: a child that is forked meanwhile has to forget it too
        try:
            namespace: dict[str, Any] = {"__name__": "wedge_fault"}
            exec(compile(request.source, request.origin, "exec"), namespace)
            fault.set_start(namespace[request.function](fault))
        except BaseException:
            self._faults.pop(fault.id, None)
            fault.release()
            raise
        return protocol.Armed(notes=fault.notes, details=fault.details)

    def _start(self, request: protocol.Start, number: int) -> protocol.Answer | None:
        fault = self._faults.get(request.fault)
        if fault is None:  # its lease is over already
            return protocol.Done()
        fault.live = True
        if request.when_done:
            fault.start()
            return protocol.Done()
        self._tell(protocol.Done(), number)
        try:
            fault.start()
        except Exception as error:  # noqa: BLE001  # it is too late to refuse
            fault.fail(protocol.ARM_FAILED, f"{type(error).__name__}: {error}")
        return None

    def _stacks(self) -> list[tuple[int, list[tuple[str, str, int, str]]]]:
        frames = sys._current_frames()
        threads = {inside for fault in self._faults.values() for inside in fault.threads_inside}
        return [(tid, _calls(frames[ident])) for ident, tid in sorted(threads) if ident in frames]

    def _failed(self, fault: InjectedFault, refused: Refused) -> None:
        kind, message, near = refused.kind, refused.message, refused.near
        self._tell(protocol.Failed(fault=fault.id, kind=kind, message=message, near=near))

    def expires_in_ms(self) -> int | None:
        """Milliseconds until the next lease runs out, at least 1, or there is to be looked for a site again;
        None when no fault is armed.
        """
        faults = list(self._faults.values())
        if not faults:
            return None
        if any(fault.look_again for fault in faults):
            return _LOOKS_EVERY_MS
        return max(1, (min(fault.until_ns for fault in faults) - time.monotonic_ns()) // 1_000_000 + 1)

    def expire(self) -> None:
        """Take out every fault whose lease has run out, and say so; look for sites that have yet to come."""
        for fault in list(self._faults.values()):
            if fault.look_again is not None:
                fault.look_again()
            if fault.until_ns <= time.monotonic_ns():
                del self._faults[fault.id]
                self._tell(protocol.Expired(fault=fault.id, notes=fault.release()))

    def release_all(self) -> None:
        """Remove every fault, because the controller is gone."""
        while self._faults:
            self._faults.popitem()[1].release()

    def forget_all(self) -> None:
        """Remove every fault in a forked child, where their waiting threads do not exist."""
        while self._faults:
            self._faults.popitem()[1].forget()


def _calls(innermost: FrameType) -> list[tuple[str, str, int, str]]:
    from traceback import extract_stack

    return [(f.name, f.filename, f.lineno or 0, f.line or "") for f in reversed(extract_stack(innermost))]


def _is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)
