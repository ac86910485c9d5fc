"""The steps of a server's test: calls, clients, faults and releases, each followed by a check of everything
that the server and the kernel show."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from faults import Fault
from pegaref.client import Client, ClientError, Session, SharedTensor
from tests.pegaref.breaker import FAULTS
from tests.pegaref.running import ClientProcess, client_process
from tests.pegaref.server_model import NOT_NOW, OK, Fate, Model, Violation
from tests.pegaref.server_world import DEVICES, World

PATIENT_S = 10.0  # a call's deadline where it must be carried out
BRIEF_S = 0.4  # and where it may have to wait for a device that hangs
SLACK_S = 2.0  # how late an answer may be on a busy machine
SOON_S = 5.0  # what a client leaves behind is gone by then

NBYTES = 8192

instances = st.sampled_from(["a", "a:b"])  # one is the beginning of the other
ranks = st.sampled_from([0, 1])
places = st.tuples(ranks, st.sampled_from(DEVICES))


def one_of(choices: Callable[[ServerMachine], list[int] | list[str]]) -> st.SearchStrategy[object]:
    """One of the values that exist at that point of the sequence."""
    return st.runner().flatmap(lambda machine: st.sampled_from(choices(machine)))


@dataclass(slots=True)
class Started:
    """A register whose caller waits in a thread, over a connection of its own."""

    tensor: SharedTensor
    device: int
    client: Client
    code: Future[str]


class ServerMachine(RuleBasedStateMachine):
    """The steps. What may come next depends on the steps before it alone: a sequence can be repeated."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self._journal: list[str] = []
        self._life = ExitStack()
        self._model = Model()
        self._tensors: dict[str, SharedTensor] = {}
        self._sessions: dict[str, Session] = {}
        self._clients: dict[str, tuple[ClientProcess, ExitStack]] = {}
        self._faults: dict[int, Fault] = {}
        self._started: dict[int, Started] = {}
        self._operations: list[str] = []
        self._numbers = iter(range(1_000_000))
        self.world.ready()
        self._began_s = time.monotonic()
        self._waiting = self._life.enter_context(ThreadPoolExecutor(8, "register"))

    # ---- calls

    @rule(instance=instances, places=st.lists(places, min_size=1, max_size=4, unique=True))
    def register(self, instance: str, places: list[tuple[int, int]]) -> None:
        """Register new memory for some (rank, device); in the instance's session, if it has one."""
        for rank, device in places:
            with self._step(f"register {instance!r} rank {rank} on device {device}"):
                tensor = self._submit(instance, rank, device, layers=1 + rank)
                deadline_s = BRIEF_S if device in self._model.faults else PATIENT_S
                code = self._say(self._register(self.world.client, tensor.name, deadline_s))
                self._model.answered(tensor.name, code)

    @precondition(lambda self: self._model.faults and len(self._started) < 3)
    @rule(instance=instances, rank=ranks, device=one_of(lambda self: sorted(self._model.faults)))
    def start_register(self, instance: str, rank: int, device: int) -> None:
        """Register on a device that hangs, and do not wait for the answer."""
        number = next(self._numbers)
        with self._step(f"start register {number}: {instance!r} rank {rank} on device {device}"):
            before = self.world.registers_in_flight(device)
            tensor = self._submit(instance, rank, device, 1)
            client = self._life.enter_context(self.world.server.client())
            code = self._waiting.submit(self._register, client, tensor.name, PATIENT_S)
            self._started[number] = Started(tensor, device, client, code)
            inside = self._faults[device].status().inside
            end_s = time.monotonic() + SLACK_S
            while not code.done() and time.monotonic() < end_s:
                if inside and self.world.registers_in_flight(device) > before:
                    break
                time.sleep(0.01)
            self._take_answers()

    @precondition(lambda self: self._started)
    @rule(number=one_of(lambda self: sorted(self._started)))
    def abandon_register(self, number: int) -> None:
        """The caller of a register that waits goes away."""
        with self._step(f"abandon register {number}"):
            started = self._started.pop(number)
            started.client.close()
            if self._model.registrations.get(started.tensor.name) is not None:
                code = self._say(started.code.result(PATIENT_S))
                if self._model.registrations[started.tensor.name].in_flight:
                    if code == "CANCELLED":
                        self._model.left(started.tensor.name)
                    self._model.answered(started.tensor.name, code, waited=True)

    @rule(how=st.sampled_from(["unregister", "cleanup", "cleanup all"]), instance=instances)
    def clean_up(self, how: str, instance: str) -> None:
        """Drop an instance over gRPC or over HTTP, or everything."""
        match how:
            case "unregister":
                self._unregister(instance)
            case "cleanup":
                self._cleanup(instance)
            case _:
                self._cleanup_all()

    def _unregister(self, instance: str) -> None:
        with self._step(f"unregister {instance!r}"):
            may_wait = self._model.may_wait(instance)
            deadline_s = BRIEF_S if may_wait else PATIENT_S
            code = self._say(
                self._timed(lambda: self.world.client.unregister(instance, deadline_s=deadline_s), deadline_s)
            )
            self._claim(code == OK or (may_wait and code in NOT_NOW), f"unregister was answered with {code}")
            self._model.drop(instance=instance, done=code == OK)

    def _cleanup(self, instance: str) -> None:
        with self._step(f"cleanup {instance!r}"):
            may_wait = self._model.may_wait(instance)
            deadline_s = BRIEF_S if may_wait else PATIENT_S
            fates = {one.fate for one in self._model.registrations.values() if one.instance == instance}
            answer = self.world.web.post("/instances/cleanup", params={"id": instance, "timeout": deadline_s})
            self._say(str(answer.status_code))
            expected = {200} if Fate.HELD in fates else {200, 404} if fates else {404}
            self._claim(
                answer.status_code in (expected | {202} if may_wait else expected),
                f"cleanup: {answer.status_code} {answer.text}",
            )
            self._remember(answer.json())
            self._model.drop(instance=instance, done=answer.status_code != 202)

    def _cleanup_all(self) -> None:
        with self._step("cleanup all"):
            deadline_s = BRIEF_S if self._model.faults else PATIENT_S
            answer = self.world.web.post("/instances/cleanup", params={"timeout": deadline_s})
            states = {device: answer.json()["devices"][str(device)]["state"] for device in DEVICES}
            self._say(f"{answer.status_code} {states}")
            self._remember(answer.json())
            for device, state in states.items():
                expected = ("done", "pending") if device in self._model.faults else ("done",)
                self._claim(state in expected, f"cleanup of device {device} is {state}")
                self._model.drop(device=device, done=state == "done")
            done = set(states.values()) == {"done"}
            self._claim(answer.status_code == (200 if done else 202), f"{answer.status_code} for {states}")

    # ---- sessions and client processes

    @rule(instance=instances)
    def open_session(self, instance: str) -> None:
        """Open a session, over the instance's older one if there is one."""
        with self._step(f"open session of {instance!r}"):
            session = self.world.client.session(instance, deadline_s=PATIENT_S)
            self._life.callback(session.close)
            self._model.opened(instance)
            self._superseded(instance)
            self._sessions[instance] = session

    @precondition(lambda self: len(self._model.faults) < len(DEVICES))
    @rule(instance=instances, device=one_of(lambda self: sorted(set(DEVICES) - set(self._model.faults))))
    def start_client(self, instance: str, device: int) -> None:
        """Start a client process, which opens a session and registers."""
        with self._step(f"start client of {instance!r} on device {device}"):
            life = ExitStack()
            self._life.push(life)
            where = (f"--addr={self.world.server.grpc}", f"--instance={instance}", f"--device={device}")
            what = (f"--bytes={NBYTES}", "--layers=2")
            client = life.enter_context(client_process("hold", *where, *what, stderr=subprocess.DEVNULL))
            self._model.opened(instance)
            self._superseded(instance)
            memory = client.said["name"]
            self._model.submitted(memory, instance, 0, device, 2, NBYTES)
            self._model.answered(memory, OK)
            self._clients[instance] = (client, life)

    @precondition(lambda self: self._model.sessions)
    @rule(instance=one_of(lambda self: sorted(self._model.sessions)), how=st.sampled_from(["kill", "end"]))
    def end_session(self, instance: str, how: str) -> None:
        """A session's stream is closed, or the client process that has it is killed, or ends by itself."""
        if instance in self._sessions:
            with self._step(f"close session of {instance!r}"):
                self._sessions.pop(instance).close()
                self._model.closed(instance)
        elif how == "kill":
            with self._step(f"kill client of {instance!r}"):
                self._kill_client(instance)
        else:
            with self._step(f"end client of {instance!r}"):
                self._end_client(instance)

    def _kill_client(self, instance: str) -> None:
        client, life = self._clients.pop(instance)
        client.process.kill()
        life.close()
        self._model.closed(instance)

    def _end_client(self, instance: str) -> None:
        client, life = self._clients.pop(instance)
        may_wait = self._model.may_wait(instance)
        client.close_stdin()
        status = client.process.wait(PATIENT_S)
        self._say(f"exit {status}")
        self._claim(may_wait or status == 0, f"the client could not unregister: exit {status}")
        life.close()
        self._model.drop(instance=instance, done=status == 0)
        self._model.closed(instance)

    # ---- faults

    @precondition(lambda self: len(self._model.faults) < len(DEVICES))
    @rule(
        device=one_of(lambda self: sorted(set(DEVICES) - set(self._model.faults))),
        fault=st.sampled_from(sorted(FAULTS)),
    )
    def break_device(self, device: int, fault: str) -> None:
        """Break the process that holds a device's tensors."""
        with self._step(f"break device {device}: {fault}"):
            self._faults[device] = self.world.breaker.break_process(self.world.actor(device), fault)
            self._model.faults[device] = fault

    @precondition(lambda self: self._model.faults)
    @rule(device=one_of(lambda self: sorted(self._model.faults)))
    def release(self, device: int) -> None:
        """End the fault: the device works again, and whoever waited for it has an answer."""
        with self._step(f"release device {device}"):
            self._mend(device)

    # ---- how a sequence ends

    def teardown(self) -> None:
        """Release everything; then a cleanup of all must find what the dictionary has, and leave nothing."""
        try:
            if not self.world.spoilt:
                self._end()
        finally:
            self.world.breaker.release_all()
            self._life.close()
            for tensor in self._tensors.values():
                tensor.close()

    def _end(self) -> None:
        for device in sorted(self._model.faults):
            with self._step(f"(end) release device {device}"):
                self._mend(device)
        with self._step("(end) cleanup all"):
            held = [one for one in self._model.registrations.values() if one.fate is Fate.HELD]
            answer = self.world.web.post("/instances/cleanup").json()
            self._say(f"{answer['removed_tensors']} tensors of {answer['removed_instances']}")
            found = (answer["removed_instances"], answer["removed_tensors"])
            expected = (sorted({one.instance for one in held}), sum(one.layers for one in held))
            self._claim(found == expected, f"the cleanup found {found} instead of {expected}")
            self._model.drop(done=True)
            for operation in self._operations:
                told = self.world.web.get(f"/operations/{operation}").json()
                self._claim(told.get("done") is True, f"operation {operation} is not done: {told}")
        with self._step("(end) every session ends"):
            for instance in tuple(self._sessions):
                self._sessions.pop(instance).close()
                self._model.closed(instance)
            for instance in tuple(self._clients):
                self._kill_client(instance)

    # ---- parts of steps

    @contextmanager
    def _step(self, words: str) -> Iterator[None]:
        """Record a step, run it, and then check that the server and the dictionary agree."""
        self._journal.append(f"{time.monotonic() - self._began_s:6.2f} s  {words}")
        try:
            yield
            self._take_answers()
            self._agree()
        except BaseException as error:
            self.world.spoilt = True
            error.add_note("\n".join(["the sequence:", *self._journal, f"      !!  {error}", self._state()]))
            raise

    def _state(self) -> str:
        faults = ", ".join(f"{fault} on device {device}" for device, fault in self._model.faults.items())
        sessions = ", ".join(f"{number} of {name!r}" for name, number in self._model.sessions.items())
        known = [*map(str, self._model.registrations.values())]
        known += [f"sessions: {sessions or 'none'}", f"faults: {faults or 'none'}"]
        return "\n    ".join(["the dictionary:", *known])

    def _say(self, outcome: str) -> str:
        self._journal[-1] += f" -> {outcome}"
        return outcome

    @staticmethod
    def _claim(holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)

    def _submit(self, instance: str, rank: int, device: int, layers: int) -> SharedTensor:
        tensor = SharedTensor(NBYTES)
        self._tensors[tensor.name] = tensor
        self._model.submitted(tensor.name, instance, rank, device, layers, NBYTES)
        return tensor

    def _register(self, client: Client, memory: str, deadline_s: float) -> str:
        """The status that the register got."""
        one = self._model.registrations[memory]
        layers = {f"layer.{number}": self._tensors[memory] for number in range(one.layers)}
        return self._timed(
            lambda: client.register(
                one.instance, layers, device_id=one.device, tp_rank=one.rank, tp_size=2, deadline_s=deadline_s
            ),
            deadline_s,
        )

    def _timed(self, call: Callable[[], None], deadline_s: float) -> str:
        began_s = time.monotonic()
        try:
            call()
            code = OK
        except ClientError as error:
            code = error.code
        took_s = time.monotonic() - began_s
        self._claim(took_s < deadline_s + SLACK_S, f"answered after {took_s:.1f} s, not by {deadline_s} s")
        return code

    def _remember(self, answer: dict[str, object]) -> None:
        if "operation" in answer:
            self._operations.append(str(answer["operation"]))

    def _superseded(self, instance: str) -> None:
        """Check that the instance's older session was told that it is superseded."""
        if (session := self._sessions.pop(instance, None)) is not None:
            ended = session.wait_ended(SOON_S)
            why = None if session.failure is None else session.failure.code
            self._claim(ended and why == "ABORTED", f"the older session of {instance!r} ended with {why}")
        if (older := self._clients.pop(instance, None)) is not None:
            client, life = older
            status = client.process.wait(SOON_S)
            life.close()
            self._claim(status == 1, f"the older client of {instance!r} ended with {status}")

    def _take_answers(self) -> None:
        """Enter the answers of started registers into the dictionary."""
        for number, started in self._started.items():
            memory = started.tensor.name
            one = self._model.registrations.get(memory)
            if one is not None and one.in_flight and started.code.done():
                code = started.code.result()
                self._journal.append(f"          register {number} got its answer -> {code}")
                self._model.answered(memory, code, waited=True)

    def _mend(self, device: int) -> None:
        fault = self._faults.pop(device)
        hits = fault.status().hits
        self.world.breaker.release(fault)
        self.world.wait_well(device)
        del self._model.faults[device]
        self._say(f"it had hit {hits} times")
        for number in [number for number, one in self._started.items() if one.device == device]:
            self._started[number].code.exception(PATIENT_S)
            self._take_answers()
            self._started.pop(number).client.close()

    def _agree(self) -> None:
        """Every device agrees with the dictionary, at the latest when what has ended had time to go."""
        end_s = time.monotonic() + SOON_S
        while True:
            sessions, seen = self.world.see()
            against = {device: self._model.contradiction(device, seen[device]) for device in DEVICES}
            wrong = [f"device {device}: {told}" for device, told in against.items() if told]
            if sessions != len(self._model.sessions):
                wrong.append(f"{sessions} sessions instead of {len(self._model.sessions)}")
            dark = self.world.prober.dark
            self._claim(not dark, f"not lit: {'; '.join(dark)}")
            if not wrong:
                break
            self._claim(time.monotonic() < end_s, f"after {SOON_S} s still: " + "; ".join(wrong))
            time.sleep(0.02)
        for device in set(DEVICES) - set(self._model.faults):
            self._model.settle(device, seen[device])
