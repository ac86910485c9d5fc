"""The `pegaref` command. It parses the flags into one frozen value; only `serve` loads the server."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from pegaref import __version__, config, log
from pegaref.config import Address, ConfigError, Limits, RegistrySettings, ServerConfig, Tls
from pegaref.errors import RegistryError

Value = TypeVar("Value")
FAILED = 1
USAGE_ERROR = 2
_SERVER_PACKAGES = ("httptools", "starlette", "uvicorn")
INTERRUPTED = 130

_DEFAULTS = ServerConfig()
_LIMITS = Limits()
_REGISTRY = RegistrySettings()

_SERVE_HELP = """Serve the registry of shared GPU memory, over HTTP and gRPC.

    The control plane never touches a GPU: an actor makes every GPU call, and the placement says where the
    actor runs. `process`, the default, keeps every endpoint lit whatever a GPU call does; the others exist to
    compare it with.

    \b
      inline   on the event loop: dark at one stuck call
      pool     on N shared workers that also run every handler: dark at N stuck calls
      thread   on one separate thread: lit, unless the stuck call keeps the GIL
      process  in one child process per device: lit

    When the server listens, it prints one line on stdout (two here); logs go to stderr:

    \b
      pegaref listening http=127.0.0.1:9091 grpc=127.0.0.1:50055 pid=42
          placement=process devices=0 device_types=cuda

    \b
    Try it:
      pegaref serve &
      curl http://127.0.0.1:9091/health     200 ok while the control process runs
      curl http://127.0.0.1:9091/ready      200, or 503 with the reason for each device
      curl http://127.0.0.1:9091/metrics    the metrics, for Prometheus
      curl -X POST http://127.0.0.1:9091/instances/cleanup?id=NAME

    SIGTERM, Ctrl-C and the Shutdown RPC stop it within 10 seconds, wedged or not. Exit status: 0 after such a
    stop, 1 if the server itself hung during it (stderr says where), 2 if it could not start.
    """


class Parsed(click.ParamType[Any]):
    """A parameter that a function of `pegaref.config` parses."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises click.BadParameter with the message of the function's ConfigError."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def _option(flag: str, kind: Any, default: Any, text: str, **more: Any) -> click.Option:
    return click.Option(
        [flag], type=kind, default=default, show_default=default is not None, help=text, **more
    )


_ADDRESS = Parsed("host:port", Address.parse)
_SECONDS = click.FloatRange(min=0, min_open=True, max=86_400)
_COUNT = click.IntRange(min=1)
_FILE = click.Path(path_type=Path)


_OPTIONS = (
    _option(
        "--placement",
        Parsed("placement", config.parse_placement),
        "process",
        "Where the actor runs (see above).",
    ),
    _option(
        "--devices",
        Parsed("n,n…", config.parse_device_ids),
        "0",
        "CUDA devices to serve, by index; one actor each.",
    ),
    _option(
        "--device-type",
        Parsed("auto|cuda|cpu", lambda word: config.choose(word, config.DEVICE_TYPES, "device type")),
        _DEFAULTS.device_type,
        "What they are: GPUs; or host memory, without asking CUDA. `auto`: GPUs where the host has one.",
    ),
    _option("--http-addr", _ADDRESS, str(_DEFAULTS.http), "Where HTTP listens. Port 0 picks a free one."),
    _option("--addr", _ADDRESS, str(_DEFAULTS.grpc), "Where gRPC listens. Port 0 picks a free one."),
    _option("--workers", _COUNT, _DEFAULTS.workers, "Shared workers of placement `pool`."),
    _option(
        "--wedge-after",
        _SECONDS,
        _REGISTRY.wedge_after_s,
        "Seconds without progress after which a running command counts as wedged.",
    ),
    _option(
        "--on-wedge",
        Parsed("report|respawn", lambda word: config.choose(word, config.WEDGE_POLICIES, "policy")),
        _REGISTRY.on_wedge,
        "What to do about a wedge: only report it, or replace the actor's process too.",
    ),
    _option(
        "--max-deadline",
        _SECONDS,
        _LIMITS.deadline_s,
        "Seconds that any call may wait, whatever deadline its caller set.",
    ),
    _option("--mailbox-commands", _COUNT, _REGISTRY.mailbox_commands, "Registers that may wait per device."),
    _option(
        "--mailbox-bytes", _COUNT, _REGISTRY.mailbox_bytes, "Bytes of registers that may wait per device."
    ),
    _option("--max-message-bytes", _COUNT, _LIMITS.message_bytes, "Largest gRPC message accepted."),
    _option(
        "--max-header-bytes",
        _COUNT,
        _LIMITS.header_bytes,
        "Largest HTTP request head and gRPC metadata accepted.",
    ),
    _option(
        "--max-connections",
        _COUNT,
        _LIMITS.connections,
        "HTTP connections; at the limit, a new one closes the one idle longest.",
    ),
    _option(
        "--header-timeout",
        _SECONDS,
        _LIMITS.header_timeout_s,
        "Seconds within which a request's head, or a handshake, must arrive.",
    ),
    _option("--max-sessions", _COUNT, _LIMITS.sessions, "Sessions that may be open."),
    _option(
        "--client-version",
        str,
        None,
        "Which clients may register: `any`; `equal`, as PegaFlow has it, to the version that this speaks, "
        f"{config.PEGAFLOW_VERSION}; or a pattern such as 0.25.*. Repeatable.",
        multiple=True,
    ),
    _option(
        "--token-file",
        _FILE,
        None,
        "File with the token that POST routes, Shutdown and registering from other machines then require.",
    ),
    _option("--tls-cert", _FILE, None, "Certificate (PEM) for both HTTP and gRPC."),
    _option("--tls-key", _FILE, None, "Its private key (PEM)."),
    _option(
        "--tls-client-ca",
        _FILE,
        None,
        "Authority (PEM) for client certificates; clients that it certifies may change things.",
    ),
    _option(
        "--shutdown-grace",
        click.FloatRange(min=0, max=6),
        _DEFAULTS.shutdown_grace_s,
        "Seconds for actors to end.",
    ),
    _option(
        "--log-level",
        click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        _DEFAULTS.log_level,
        "What to log on stderr.",
    ),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """A GPU server's control plane that cannot go dark."""


@cli.command(help=_SERVE_HELP, params=[*_OPTIONS])
def serve(**flags: Any) -> None:
    """Runs a server until it is stopped. Raises ConfigError or RegistryError if it cannot start."""
    settings = server_config(**flags)
    log.open_streams()
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if settings.log_level != "debug":
        # It tells of its own start and end, and of each malformed request, which anybody may send many of.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    # Read by gRPC when it is first loaded. Its own log says in paragraphs what is said here in a line, and
    # its fork handlers would stop all its threads whenever an actor is started, although that only execs.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from pegaref.server import run
    from pegaref.serving import PartLost

    try:
        run(settings, announce=lambda line: print(line, flush=True))
    except PartLost as lost:
        logging.getLogger(__name__).critical("%s", lost)
        _leave(FAILED)
    _leave()


def server_config(**flags: Any) -> ServerConfig:
    """The configuration that the flags describe. Raises ConfigError."""
    token_file: Path | None = flags["token_file"]
    return ServerConfig(
        placement=flags["placement"],
        device_ids=flags["devices"],
        device_type=flags["device_type"],
        http=flags["http_addr"],
        grpc=flags["addr"],
        workers=flags["workers"],
        registry=RegistrySettings(
            wedge_after_s=flags["wedge_after"],
            on_wedge=flags["on_wedge"],
            mailbox_commands=flags["mailbox_commands"],
            mailbox_bytes=flags["mailbox_bytes"],
        ),
        limits=Limits(
            message_bytes=flags["max_message_bytes"],
            header_bytes=flags["max_header_bytes"],
            connections=flags["max_connections"],
            header_timeout_s=flags["header_timeout"],
            sessions=flags["max_sessions"],
            deadline_s=flags["max_deadline"],
            cleanup_timeout_s=min(_LIMITS.cleanup_timeout_s, flags["max_deadline"]),
        ),
        client_versions=config.parse_client_versions(flags["client_version"]),
        token=None if token_file is None else config.read_token(token_file),
        tls=_tls(flags["tls_cert"], flags["tls_key"], flags["tls_client_ca"]),
        shutdown_grace_s=flags["shutdown_grace"],
        log_level=flags["log_level"].lower(),
    )


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> Tls | None:
    if certificate is None and key is None:
        if authority is not None:
            raise ConfigError("--tls-client-ca needs TLS: add --tls-cert and --tls-key")
        return None
    if certificate is None or key is None:
        missing = "--tls-cert" if certificate is None else "--tls-key"
        raise ConfigError(f"TLS needs a certificate and its key: add {missing}")
    return Tls(certificate, key, authority)


def _leave(status: int = 0) -> None:
    """End the process although a thread hangs: the interpreter would wait for it."""
    stuck = [thread.name for thread in threading.enumerate() if not thread.daemon]
    stuck.remove(threading.main_thread().name)
    if stuck:
        logging.getLogger(__name__).warning("left while these threads hang: %s", ", ".join(stuck))
        log.finish()
        os._exit(status)
    if status:
        sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits: 0, or 2 with one line on stderr that says what to do."""
    try:
        code = cli.main(args=arguments, prog_name="pegaref", standalone_mode=False)
    except click.ClickException as error:
        _refuse(" ".join(error.format_message().split()))
    except (ConfigError, RegistryError) as error:
        _refuse(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _SERVER_PACKAGES:
            raise
        _refuse(f"{package} is not installed here: pip install 'pegaref[server]'")
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(line: str) -> NoReturn:
    print(f"pegaref: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)
