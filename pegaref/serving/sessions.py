"""Which session owns which tensors: one open session per instance, and a cleanup however it ends.

Each session starts a new generation of its instance. Whatever is registered during the session belongs to
that generation, and the session's end drops it and no later one. Whatever an instance registers without a
session belongs to generation 0; the instance's next session that ends without being superseded drops that
too, because ranks may register before their scheduler opens the session.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from pegaref.errors import CleanupPending, RegistryError, ShuttingDown
from pegaref.messages import Dropped
from pegaref.serving.refusal import TooMany

logger = logging.getLogger(__name__)

NO_SESSION = 0  # the generation of contexts registered without a session

# Drops one generation of an instance through the registry's handle; raises RegistryError.
Drop = Callable[[str, int], Awaitable[Dropped]]


class SessionEnded(RegistryError):
    """Raised when the server ends a session's stream; the code and the message say why."""

    code = "UNAVAILABLE"


class OpenSession:
    """One open session. It ends once: through its client, or when `ended` is set with the reason."""

    __slots__ = ("ended", "generation", "instance_id", "namespace")

    def __init__(
        self, instance_id: str, namespace: str, generation: int, ended: asyncio.Future[SessionEnded]
    ):
        self.instance_id = instance_id
        self.namespace = namespace
        self.generation = generation
        self.ended = ended

    def end(self, reason: SessionEnded) -> None:
        """Tell the stream to end; does nothing if it has ended."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def __repr__(self) -> str:
        return f"session {self.generation} of {self.instance_id}"


class Sessions:
    """Every open session. Used from one event loop only."""

    def __init__(self, drop: Drop, *, most: int) -> None:
        self._drop = drop
        self._most = most
        self._open: dict[str, OpenSession] = {}
        self._sessionless: set[str] = set()  # instances that may have registered without a session
        self._last_generation = 0
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def open(self, instance_id: str, namespace: str) -> OpenSession:
        """Start a new generation. The instance's older session ends with ABORTED and its tensors are dropped.

        Raises TooMany, ShuttingDown.
        """
        if self._stopping:
            raise ShuttingDown("the server is shutting down")
        older = self._open.get(instance_id)
        if older is None and len(self._open) >= self._most:
            raise TooMany(f"{self._most} sessions are open, which is the limit", retry_after_s=1.0)
        self._last_generation += 1
        ended = asyncio.get_running_loop().create_future()
        session = OpenSession(instance_id, namespace, self._last_generation, ended)
        self._open[instance_id] = session
        logger.info("%r opened", session)
        if older is not None:
            self._release(
                older, SessionEnded(f"superseded by {session!r}", code="ABORTED"), with_sessionless=False
            )
        return session

    def close(self, session: OpenSession) -> None:
        """Drop what the session owned after its stream has ended. Does nothing if the server ended it."""
        if self._open.get(session.instance_id) is session:
            del self._open[session.instance_id]
            self._release(session, SessionEnded("closed by its client"), with_sessionless=True)

    def generation_of(self, instance_id: str) -> int:
        """The generation that a register of this instance belongs to now."""
        session = self._open.get(instance_id)
        return NO_SESSION if session is None else session.generation

    def add_registered(self, instance_id: str, generation: int) -> bool:
        """Record a finished register. False if its session has ended, so that the context has no owner."""
        if generation == NO_SESSION:
            self._sessionless.add(instance_id)
            return True
        session = self._open.get(instance_id)
        return session is not None and session.generation == generation

    def clear_sessionless(self, instance_id: str | None) -> None:
        """Record that everything of an instance, or of all instances (None), is being dropped."""
        if instance_id is None:
            self._sessionless.clear()
        else:
            self._sessionless.discard(instance_id)

    def end_lost(self, generations: Iterable[tuple[str, int]]) -> None:
        """End the sessions whose tensors were lost with an actor, so that their clients register again."""
        for instance_id, generation in generations:
            session = self._open.get(instance_id)
            if session is not None and generation in (session.generation, NO_SESSION):
                del self._open[instance_id]
                reason = SessionEnded("its tensors were lost with their actor: register again")
                self._release(session, reason, with_sessionless=True)

    async def end_all(self) -> None:
        """Refuse new sessions and end the open ones. Nothing is dropped, since the actors end with the
        server."""
        self._stopping = True
        for session in tuple(self._open.values()):
            session.end(SessionEnded("the server is shutting down"))
        self._open.clear()
        for watcher in tuple(self._watchers):
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def _release(self, session: OpenSession, reason: SessionEnded, *, with_sessionless: bool) -> None:
        logger.info("%r ended: %s", session, reason.message)
        session.end(reason)
        generations = [session.generation]
        if with_sessionless and session.instance_id in self._sessionless:
            self._sessionless.discard(session.instance_id)
            generations.append(NO_SESSION)
        for generation in generations:
            watcher = asyncio.get_running_loop().create_task(self._clean_up(session.instance_id, generation))
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)

    async def _clean_up(self, instance_id: str, generation: int) -> None:
        try:
            dropped = await self._drop(instance_id, generation)
        except CleanupPending as pending:
            logger.warning(
                "instance %s, generation %d: its cleanup waits for an actor as operation %s",
                instance_id,
                generation,
                pending.operation_id,
            )
        except RegistryError as error:
            logger.warning(
                "instance %s, generation %d: not cleaned up: %s", instance_id, generation, error.message
            )
        except Exception:
            logger.exception("instance %s, generation %d: not cleaned up", instance_id, generation)
        else:
            logger.info(
                "instance %s, generation %d: released %d tensors", instance_id, generation, dropped.tensors
            )
