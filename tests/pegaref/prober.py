"""Probes a server's liveness all the time, as a kubelet would, and records every missing answer."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

BUDGET_S = 2.0
EVERY_S = 0.1


class Prober:
    """Three threads, one an endpoint: /health over fresh and over kept connections, and gRPC health."""

    def __init__(self, http_address: str, grpc_address: str) -> None:
        self._http = http_address
        self._channel = grpc.insecure_channel(grpc_address)
        self._stub = health_pb2_grpc.HealthStub(self._channel)
        self._kept = http.client.HTTPConnection(http_address, timeout=BUDGET_S)
        self._stop = threading.Event()
        self._dark: list[str] = []
        self.answers = {"/health fresh": 0, "/health kept": 0, "grpc health": 0}
        self.slowest_s = 0.0
        asks = zip(self.answers, (self._fresh, self._again, self._check), strict=True)
        self._threads = [
            threading.Thread(target=self._probe, args=(name, ask), name=f"prober {name}")
            for name, ask in asks
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * BUDGET_S)
        self._kept.close()
        self._channel.close()

    @property
    def dark(self) -> tuple[str, ...]:
        """The probes without the right answer within the budget, in order."""
        return tuple(self._dark)

    def _probe(self, name: str, ask: Callable[[], str]) -> None:
        while not self._stop.wait(EVERY_S):
            began = time.monotonic()
            try:
                wrong = ask()
            except (OSError, http.client.HTTPException) as error:
                wrong = f"{type(error).__name__}: {error}"
            except grpc.RpcError as error:
                status: Any = error  # what grpc raises is a call as well, which knows how it ended
                wrong = f"{status.code().name}: {status.details()}"
            took_s = time.monotonic() - began
            self.slowest_s = max(self.slowest_s, took_s)
            if wrong or took_s > BUDGET_S:
                self._dark.append(f"{name}: {wrong or 'answered too late'}, after {took_s:.2f} s")
            else:
                self.answers[name] += 1

    def _fresh(self) -> str:
        connection = http.client.HTTPConnection(self._http, timeout=BUDGET_S)
        try:
            return _ask(connection)
        finally:
            connection.close()

    def _again(self) -> str:
        try:
            return _ask(self._kept)
        except (OSError, http.client.HTTPException):
            self._kept.close()  # the next request opens it again
            raise

    def _check(self) -> str:
        answer = self._stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=BUDGET_S)
        return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else f"status {answer.status}"


def _ask(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/health")
    response = connection.getresponse()
    body = response.read()
    return "" if response.status == 200 else f"{response.status} {body[:80]!r}"
