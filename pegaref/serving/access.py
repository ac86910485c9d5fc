"""Who may change things: `POST …` over HTTP, `Shutdown` and the registry's calls over gRPC.

With no credentials configured, only callers on this machine may. With a token configured, only callers that
send it may; with mutual TLS, only callers with a certificate from the clients' authority.

The registry's calls (register, unregister, session) are always open to this machine: memory is shared between
processes of one host, and a PegaFlow client has no token to send. From elsewhere they need credentials like
the rest. Requests that a proxy on this machine forwards count as coming from this machine.
"""

import hmac
from dataclasses import dataclass

from pegaref.config import ServerConfig, is_loopback
from pegaref.serving.refusal import Forbidden, Unauthenticated

_REMEDY = "use loopback, or start the server with --token-file or --tls-client-ca"


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known about a caller. `host` is '' if it has no address (a unix socket)."""

    host: str
    authorization: str | None = None  # the header or metadata of that name
    certified: bool = False  # it has a certificate from the clients' authority
    origin: str | None = None  # only web pages set it


class Access:
    """Decides what a caller may do, from the configuration alone."""

    __slots__ = ("_expected", "_mutual_tls")

    def __init__(self, config: ServerConfig) -> None:
        self._expected = None if config.token is None else f"Bearer {config.token}".encode()
        self._mutual_tls = config.mutual_tls

    def trusts(self, caller: Caller) -> bool:
        """Whether the caller is on this machine or has credentials to change things."""
        return caller.origin is None and (is_loopback(caller.host) or self._proved(caller))

    def check_client(self, caller: Caller) -> None:
        """Raises Unauthenticated or Forbidden unless the caller may register, unregister and hold a
        session."""
        if not self.trusts(caller):
            self.check(caller)

    def check(self, caller: Caller) -> None:
        """Raises Unauthenticated or Forbidden unless the caller may change things."""
        if caller.origin is not None:
            raise Forbidden(
                "requests of web pages are refused: a page may not act on this server for its visitor"
            )
        if self._proved(caller):
            return
        if self._expected is not None:
            raise Unauthenticated("a token is needed: send 'authorization: Bearer TOKEN'")
        if self._mutual_tls:
            raise Unauthenticated("a client certificate is needed")
        if not is_loopback(caller.host):
            raise Forbidden(f"changes are refused off loopback: {_REMEDY}")

    def _proved(self, caller: Caller) -> bool:
        if self._mutual_tls and caller.certified:
            return True
        shown = (caller.authorization or "").encode()
        return self._expected is not None and hmac.compare_digest(shown, self._expected)


def explain(config: ServerConfig) -> str | None:
    """A line for the log at start about who may change things; None if there is nothing to say."""
    exposed = [str(address) for address in (config.http, config.grpc) if not address.is_loopback]
    if not exposed:
        return None
    where = f"{' and '.join(exposed)} can be reached from other machines"
    if config.token is None and not config.mutual_tls:
        return f"{where}: changes (POST, Shutdown, registering) are refused off loopback; {_REMEDY}"
    if config.tls is None:
        return f"{where} without TLS: the token travels in the clear; add --tls-cert and --tls-key"
    return None
