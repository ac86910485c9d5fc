"""All settings of a server, as one frozen value that is parsed once, by the command line.

No other module reads an environment variable or a flag; each is given a `ServerConfig` or a part of it.
"""

import fnmatch
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

PlacementName = Literal["inline", "pool", "thread", "process"]
WedgePolicy = Literal["report", "respawn"]
DeviceType = Literal["auto", "cuda", "cpu"]

PLACEMENTS: tuple[PlacementName, ...] = get_args(PlacementName)
WEDGE_POLICIES: tuple[WedgePolicy, ...] = get_args(WedgePolicy)
DEVICE_TYPES: tuple[DeviceType, ...] = get_args(DeviceType)

PEGAFLOW_VERSION = "0.25.1"  # whose wire this is

_LAST_PORT = 65535  # of TCP
# No host has more GPUs; a longer list is a mistake.
_MOST_DEVICES = 64


class ConfigError(Exception):
    """Raised for an invalid setting, in one line that says what is wrong and how to fix it."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on or connect to. Port 0 asks the kernel for a free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `HOST:PORT` (`[::1]:9091` for IPv6). Raises ConfigError."""
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ConfigError(f"{text!r} is no address: write HOST:PORT, such as 127.0.0.1:9091")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ConfigError(f"{text!r} is ambiguous: write an IPv6 host in brackets, such as [::1]:9091")
        if not (port.isascii() and port.isdigit()) or int(port) > _LAST_PORT:
            raise ConfigError(
                f"{port!r} is no port: write a number from 0 to {_LAST_PORT}; 0 picks a free one"
            )
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a numeric host (or `localhost`) is loopback, IPv4 addresses mapped into IPv6 included."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. With `client_authority`, clients with a certificate from it may use mutating routes."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """The registry's limits and times. The defaults fit a server with up to 8 devices."""

    wedge_after_s: float = 5.0  # an actor without progress on a command for this long counts as wedged
    on_wedge: WedgePolicy = "report"
    mailbox_commands: int = 2048  # registers that may wait for one device
    mailbox_bytes: int = 64 * 1024 * 1024  # and their total size
    start_within_s: float = 120.0  # an actor that takes longer to load torch counts as wedged
    kill_grace_s: float = 2.0  # an actor that lives longer than this after SIGKILL is quarantined
    backoff_first_s: float = 0.5  # before the second respawn in a row; the first comes at once
    backoff_most_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer, or all peers together, may use. No limit applies to liveness."""

    message_bytes: int = 4 * 1024 * 1024  # gRPC's own default; a register of 1,000 layers is about 200 KB
    header_bytes: int = 16 * 1024
    connections: int = 1024  # per listener
    header_timeout_s: float = (
        10.0  # from connecting, or from a request's first byte, to the end of its headers
    )
    sessions: int = 10_000
    deadline_s: float = 60.0  # no call waits longer, whatever deadline its caller set
    cleanup_timeout_s: float = (
        10.0  # an HTTP cleanup without ?timeout= is answered within this, with 202 if it is not done
    )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The configuration of one server. The defaults are those of `pegaref serve` without flags."""

    placement: PlacementName = "process"
    device_ids: tuple[int, ...] = (0,)
    device_type: DeviceType = "auto"
    http: Address = Address("127.0.0.1", 9091)
    grpc: Address = Address("127.0.0.1", 50055)
    workers: int = 2  # used only by placement `pool`
    registry: RegistrySettings = RegistrySettings()
    limits: Limits = Limits()
    client_versions: tuple[str, ...] = ()  # patterns such as 0.22.*; empty accepts any
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    shutdown_grace_s: float = 5.0
    log_level: str = "info"

    @property
    def mutual_tls(self) -> bool:
        """Whether clients can authenticate with a certificate."""
        return self.tls is not None and self.tls.client_authority is not None

    def accepts(self, client_version: str) -> bool:
        """Whether a client of this version may register."""
        return not self.client_versions or any(
            fnmatch.fnmatchcase(client_version, pattern) for pattern in self.client_versions
        )


def choose(word: str, choices: Sequence[str], noun: str) -> str:
    """Returns `word` if it is one of `choices`. Raises ConfigError with the nearest choice otherwise."""
    if word in choices:
        return word
    import difflib  # imported only on a mistake: it takes longer to load than the rest of this module

    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"unknown {noun} {word!r}: {hint}choose one of {', '.join(choices)}")


def parse_placement(word: str) -> PlacementName:
    """Reads a placement's name. Raises ConfigError with the nearest name otherwise."""
    return cast(PlacementName, choose(word, PLACEMENTS, "placement"))


def parse_device_ids(text: str) -> tuple[int, ...]:
    """Reads `0,1` into device ids, in the order given. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"{text!r} is no list of devices: write numbers from 0 with commas, such as 0,1")
    device_ids = tuple(int(part) for part in parts)
    if len(set(device_ids)) != len(device_ids):
        raise ConfigError(f"{text!r} names a device twice: each gets one actor, so name it once")
    if len(device_ids) > _MOST_DEVICES:
        raise ConfigError(
            f"{len(device_ids)} devices are more than one server takes: name at most {_MOST_DEVICES}"
        )
    return device_ids


def parse_client_versions(words: Sequence[str]) -> tuple[str, ...]:
    """The patterns of versions that may register, none for any: of `any`, `equal` (PegaFlow's own rule: the
    version whose wire this is) and patterns. Raises ConfigError."""
    if "any" in words and len(words) > 1:
        raise ConfigError("--client-version any takes every version: leave the others out")
    return tuple(PEGAFLOW_VERSION if word == "equal" else word for word in words if word != "any")


def read_token(path: Path) -> str:
    """The token in a file, without surrounding white space. Raises ConfigError if there is no valid one."""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the token file {path} cannot be read ({error}): name a readable text file"
        ) from None
    if not token.isascii() or len(token) < 16 or any(ch.isspace() for ch in token):
        raise ConfigError(
            f"the token in {path} is too weak: write at least 16 ASCII characters in one word, "
            "such as the output of: openssl rand -hex 32"
        )
    return token
