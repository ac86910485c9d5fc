"""The fault layer's values. This module imports nothing local; everything else is built on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

LEASE_LIMIT_S = 300.0
"""No fault lives longer than this without being armed again."""

DEFAULT_LEASE_S = 30.0

Newcomers = Literal["tell", "cover"]
"""What becomes of processes that match a fault's selector but appear after it was armed."""


class State(StrEnum):
    """Where a fault is in its life: armed → hit → biting → released | expired | never_hit | failed."""

    NEW = "new"
    ARMED = "armed"
    HIT = "hit"
    BITING = "biting"
    RELEASED = "released"
    EXPIRED = "expired"
    NEVER_HIT = "never_hit"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """True once nothing of the fault is left in the target."""
        return self in (State.RELEASED, State.EXPIRED, State.NEVER_HIT, State.FAILED)


@dataclass(frozen=True, slots=True)
class Selector:
    """Which of the target's processes: all conditions that are given must hold.

    `cmdline` is a regular expression searched for in the command line that it was started with, and in the
    title and the name that ps(1) shows of it now. `imports` is a module that it has finished importing,
    `parent` the name of the selector that its parent (or any process above it) matches, `port` a TCP port on
    which it listens, and `pid` that very process. `main` is a process above which no other process has an
    agent and which is more than a moment's helper; False is any other.

    Helpers of multiprocessing (the resource tracker, the fork server) match only by their pid, or by a
    `cmdline` that names them.
    """

    cmdline: str | None = None
    imports: str | None = None
    parent: str | None = None
    main: bool | None = None
    pid: int | None = None
    port: int | None = None

    def __str__(self) -> str:
        parts = [
            f"{name}={value}"
            for name in ("cmdline", "imports", "parent", "port", "pid")
            if (value := getattr(self, name)) is not None
        ]
        main = {None: [], True: ["main"], False: ["main=0"]}[self.main]
        return " ".join([*parts, *main]) or "any process"


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process of the target. `python` is the version that its agent reported, empty where it has none;
    `started` is in clock ticks since boot, as in /proc/PID/stat; `agent_fds` are the descriptors in it that
    are the agent's.
    """

    pid: int
    ppid: int
    argv: tuple[str, ...]
    python: str
    started: int
    executable: str = ""
    agent_fds: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.pid} ({' '.join(self.argv)[:80] or self.executable})"


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter of a fault; `default` None together with `required` means that it must be given."""

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class FaultInfo:
    """One fault of the catalogue.

    It runs inside the target's process, or outside it in the sidecar. `triggers`: it takes conditions on
    calls. `is_control`: it breaks nothing, so anything that goes dark under it has another cause.
    `takes_cores`: the fault takes the target's cores. `ends_process`: the processes that it is armed in are
    meant to end by it. `site_kind` is what its site has to be; None if it has
    no site. `needs` names what it needs besides a process: `gpu`, or `relay`, an armed net.relay that the
    clients use.
    """

    name: str
    summary: str
    params: tuple[ParameterInfo, ...]
    doc: str
    runs: Literal["inside", "outside"] = "inside"
    triggers: bool = False
    origin: str = ""
    is_control: bool = False
    takes_cores: bool = False
    ends_process: bool = False
    site_kind: Literal["function", "class"] | None = None
    needs: tuple[str, ...] = ()


class Proof(StrEnum):
    """How to see from outside that a fault bites; `faults.evidence` has a function for each."""

    ANSWER = "answer"
    GIL = "gil"
    INSIDE = "inside"
    HIT = "hit"
    STOPPED = "stopped"
    GONE = "gone"
    EXHAUSTED = "exhausted"
    GROWN = "grown"
    STARVED = "starved"

    @property
    def needs_inside(self) -> bool:
        """Whether the fault bites only while a thread or task is in it; others bite from their first hit
        on."""
        return self in (Proof.GIL, Proof.INSIDE, Proof.STOPPED)

    @property
    def needs_all(self) -> bool:
        """Whether every process of the fault has to show it. Other proofs need traffic, which may all go to
        one process.
        """
        return self not in (Proof.INSIDE, Proof.HIT)


@dataclass(frozen=True, slots=True)
class Definition:
    """A fault of the catalogue together with what is sent to where it runs: its file's `source`.

    `sidecar_function` is what is called in the sidecar besides, for a fault inside the target that must be
    ended from outside when the controller dies; empty where there is none.
    """

    info: FaultInfo
    source: str
    proof: Proof
    sidecar_function: str = ""


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of a process, as the kernel numbers them."""

    pid: int
    tid: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One call. `text` is the line of source where it is known."""

    function: str
    file: str
    line: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """Where a thread stands: its calls, the innermost first. `inside`: it is in the fault. `name` is empty
    where it is not known.
    """

    thread: Thread
    frames: tuple[Frame, ...]
    inside: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class FaultStatus:
    """A fault at one moment, summed over the processes it is armed in.

    `calls` counts what reached the site and matched, `hits` what the fault acted on, `inside` what is in it
    right now, `held_s` the seconds for which at least one was inside. `times` maps each state that was
    reached to `time.monotonic()` seconds. `evidence` are findings from outside the process, in the order they
    were made. `threads` are those of the target that are in it right now, where it runs inside the target.
    """

    id: str
    name: str
    state: State
    hits: int
    inside: int
    evidence: tuple[str, ...]
    held_s: float
    times: Mapping[str, float]
    calls: int = 0
    pids: tuple[int, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    trigger: Mapping[str, Any] = field(default_factory=dict)
    lease_left_s: float = 0.0
    newcomers: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    threads: tuple[Thread, ...] = ()
