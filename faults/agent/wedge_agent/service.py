"""What a controller can ask of an agent, once it asks for anything; runs in the agent's thread."""

from __future__ import annotations

import json
import os
import sys
import time

from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .fault import Fault


class Service:
    """The faults armed in this process, and the answers to a controller's requests."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._faults: dict[str, Fault] = {}

    def handle(self, body: bytes, descriptors: list[int]) -> None:
        """Do one request and answer it; takes from the front of `descriptors` those that came with it."""
        request = json.loads(body)
        fds = [descriptors.pop(0) for _ in range(min(request["fds"], len(descriptors)))]
        answer: dict[str, Any] | None
        try:
            answer = getattr(self, "do_" + request["do"])(request, fds)
        except Refused as refusal:
            answer = {"refused": refusal.kind, "message": refusal.message, "near": refusal.near}
        except Exception as error:  # noqa: BLE001  # told to the one who asked; the program must not hear of it
            answer = {"refused": "error", "message": f"{type(error).__name__}: {error}", "near": []}
        if answer is not None:
            self.tell({"of": request["n"], **answer})

    def tell(self, message: dict[str, Any]) -> None:
        """Send the controller something."""
        self._send(json.dumps(message).encode())

    def do_ping(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """An answer proves that this interpreter runs Python code in a thread other than the busy one."""
        return {}

    def do_imported(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Which of `names` this process has finished importing."""
        return {"names": [name for name in request["names"] if _is_imported(name)]}

    def do_arm(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Install a fault that does nothing until `go`; refused, it leaves nothing behind."""
        from .fault import Fault  # here, so that a process which is only asked its name need not load it

        if len(fds) < request["fds"]:
            for fd in fds:
                os.close(fd)
            raise Refused("ArmFailed", "the process has no descriptor left for the fault's line")
        fault = Fault(request, fds, self._failed)
        self._faults[fault.id] = fault  # already: a child that is forked meanwhile has to forget it too
        try:
            namespace: dict[str, Any] = {"__name__": "wedge_fault"}
            exec(compile(request["source"], request["origin"], "exec"), namespace)
            fault.prepared(namespace["arm_beside" if request["beside"] else "arm"](fault))
        except BaseException:
            self._faults.pop(fault.id, None)
            fault.release()
            raise
        return {"notes": fault.notes, "details": fault.details}

    def do_go(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        """Let an armed fault act. With `when_done` the answer, or the refusal, comes when it does; else
        before it begins what it does by itself, which could hold up the answer.
        """
        fault = self._faults.get(request["fault"])
        if fault is None:  # its lease is over already
            return {}
        fault.live = True
        if request["when_done"]:
            fault.begin()
            return {}
        self.tell({"of": request["n"]})
        try:
            fault.begin()
        except Exception as error:  # noqa: BLE001  # it is too late to refuse
            fault.fail("ArmFailed", f"{type(error).__name__}: {error}")
        return None

    def do_release(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Take a fault out of this process again."""
        fault = self._faults.pop(request["fault"], None)
        return {"notes": [*fault.notes, *fault.release()] if fault else [], "known": fault is not None}

    def do_notes(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """What a fault has to say about itself: where its relay listens, what it waits for."""
        fault = self._faults.get(request["fault"])
        return {"notes": fault.notes if fault else [], "details": fault.details if fault else {}}

    def do_stacks(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Where each thread stands that is in a fault right now: its number as the kernel has it, and its
        calls, the innermost first, as (function, file, line, text of that line).
        """
        frames = sys._current_frames()
        threads = {inside for fault in self._faults.values() for inside in fault.threads_inside}
        return {
            "threads": [[tid, _calls(frames[ident])] for ident, tid in sorted(threads) if ident in frames]
        }

    def _failed(self, fault: Fault, refusal: Refused) -> None:
        self.tell(
            {"failed": fault.id, "kind": refusal.kind, "message": refusal.message, "near": refusal.near}
        )

    def expires_in_ms(self) -> int | None:
        """Milliseconds until the next lease runs out, at least 1; None when no fault is armed."""
        faults = list(self._faults.values())
        if not faults:
            return None
        return max(1, (min(fault.until_ns for fault in faults) - time.monotonic_ns()) // 1_000_000 + 1)

    def expire(self) -> None:
        """Take out every fault whose lease has run out, and say so."""
        for fault in list(self._faults.values()):
            if fault.until_ns <= time.monotonic_ns():
                del self._faults[fault.id]
                self.tell({"expired": fault.id, "notes": fault.release()})

    def release_all(self) -> None:
        """Take out every fault: the controller is gone."""
        while self._faults:
            self._faults.popitem()[1].release()

    def forget_all(self) -> None:
        """Take out every fault in a forked child, where their waiting threads do not exist."""
        while self._faults:
            self._faults.popitem()[1].forget()


def _calls(innermost: Any) -> list[list[Any]]:
    from traceback import extract_stack

    return [[f.name, f.filename, f.lineno or 0, f.line or ""] for f in reversed(extract_stack(innermost))]


def _is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)
