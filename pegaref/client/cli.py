"""A client as a process: it shares memory or holds an instance, prints one line of JSON, and waits.

It ends when its standard input ends, or on SIGTERM or SIGINT, and leaves nothing behind.
"""

import base64
import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Self

import click

from pegaref.client.tensors import Shared, SharedCudaTensor, SharedTensor
from pegaref.errors import ClientError

USAGE_ERROR = 2
FAILED = 1

_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 2.0
_LAST_CALL_S = 2.0  # for the unregister on the way out


class EndRequest:
    """The request to end this process: end of standard input, SIGTERM or SIGINT.

    Signals arrive as bytes on a pipe, so that none is missed.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._ended = False

    def __enter__(self) -> "EndRequest":
        signal.set_wakeup_fd(self._write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the request; False if the time ran out first."""
        while not self._ended:
            try:
                ready, _, _ = select.select([self._read, 0], [], [], timeout_s)
            except OSError:  # a closed standard input counts as one that has ended
                return True
            if not ready:
                return False
            self._ended = self._read in ready or not os.read(0, 4096)
        return True


_LAYERS = click.Option(
    ["--layers"], type=click.IntRange(1, 4096), default=1, show_default=True, help="Layers."
)
_BYTES = click.Option(
    ["--bytes", "nbytes"],
    type=click.IntRange(1),
    default=65536,
    show_default=True,
    help="Bytes of shared memory.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Share memory with a pegaref server as another process of its host would."""


_CUDA = click.Option(["--cuda"], is_flag=True, help="Share GPU memory (CUDA IPC); needs torch.")
_DEVICE = click.Option(
    ["--device", "device_id"],
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Device; with --cuda the GPU that has the memory.",
)


def _tensor(nbytes: int, device_id: int, *, cuda: bool) -> Shared:
    return SharedCudaTensor(nbytes, device_id) if cuda else SharedTensor(nbytes)


@cli.command(params=[_LAYERS, _BYTES, _CUDA, _DEVICE])
def share(layers: int, nbytes: int, cuda: bool, device_id: int) -> None:
    """Create shared memory, print its wrapper, and hold it.

    Prints {"wrapper": BASE64, "layers": L, "bytes": N, "pid": …}. The wrapper may be registered for any
    number of layers and instances; --layers is only passed on.
    """
    with EndRequest() as end, _tensor(nbytes, device_id, cuda=cuda) as tensor:
        wrapper = base64.b64encode(tensor.wrapper).decode()
        _print_line(wrapper=wrapper, layers=layers, bytes=nbytes, name=tensor.name, pid=os.getpid())
        end.wait()


@cli.command(
    params=[
        click.Option(["--addr"], required=True, metavar="HOST:PORT", help="The server's gRPC address."),
        click.Option(["--instance"], required=True, help="The instance's name."),
        _LAYERS,
        _BYTES,
        _CUDA,
        _DEVICE,
        click.Option(["--no-session"], is_flag=True, help="Register without a session."),
        click.Option(
            ["--retry"], is_flag=True, help="Try until the server takes it; it may start after this client."
        ),
        click.Option(
            ["--deadline"],
            type=click.FloatRange(0, min_open=True),
            default=10.0,
            show_default=True,
            help="Seconds that a call may take.",
        ),
    ]
)
def hold(
    addr: str,
    instance: str,
    layers: int,
    nbytes: int,
    cuda: bool,
    device_id: int,
    no_session: bool,
    retry: bool,
    deadline: float,
) -> None:
    """Share memory, open a session, register, and hold all of it.

    Prints {"instance": I, "registered": L, "wrapper": BASE64, …}. When the server ends the session because it
    lost the memory or was restarted, opens another and registers again; when another session of the instance
    superseded it, ends. On the way out it unregisters.

    With --retry, prints {"instance": I, "registering": L, …} first, and then tries to register until the
    server takes it. Without, it ends with an error when the first try fails.
    """
    from pegaref.client.connection import Client

    with (
        EndRequest() as end,
        _tensor(nbytes, device_id, cuda=cuda) as tensor,
        Client(addr, deadline_s=deadline) as client,
    ):
        names = [f"layer.{number}" for number in range(layers)]
        said = {"device": device_id, "name": tensor.name, "pid": os.getpid()}
        if retry:
            _print_line(instance=instance, registering=layers, **said)
        with Holder(
            client, instance, dict.fromkeys(names, tensor), device_id, with_session=not no_session
        ) as holder:
            if not retry:
                holder.register()
            elif not holder.register_until(end):
                return
            wrapper = base64.b64encode(tensor.wrapper).decode()
            _print_line(instance=instance, registered=layers, wrapper=wrapper, bytes=nbytes, **said)
            holder.hold_until(end)


class Holder:
    """Keeps one instance registered inside its `with` block, and unregisters it at the end."""

    def __init__(
        self, client: Any, instance: str, layers: dict[str, Shared], device_id: int, *, with_session: bool
    ) -> None:
        self._client = client
        self._instance = instance
        self._layers = layers
        self._device_id = device_id
        self._with_session = with_session
        self._session: Any = None
        self._registered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._registered:
                self._client.unregister(self._instance, deadline_s=_LAST_CALL_S)
        finally:
            if self._session is not None:
                self._session.close()

    def register(self) -> None:
        """Open a session (unless run with --no-session) and register. Raises ClientError."""
        self._registered = False
        if self._with_session:
            if self._session is not None:
                self._session.close()
            self._session = self._client.session(self._instance)
        self._client.register(self._instance, self._layers, device_id=self._device_id)
        self._registered = True

    def register_until(self, end: EndRequest) -> bool:
        """Retry with growing pauses until a register succeeds; False if the process was told to end first."""
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                self.register()
            except ClientError as error:
                print(f"not registered yet: {error}", file=sys.stderr)
            else:
                return True
            if end.wait(retry_s):
                return False
            retry_s = min(2 * retry_s, _RETRY_MOST_S)

    def hold_until(self, end: EndRequest) -> None:
        """Register again whenever the server ends the session. Raises ClientError if the session was
        superseded."""
        while not end.wait(0.1 if self._with_session else None):
            if not self._session.wait_ended(0):
                continue
            failure = self._session.failure
            if failure is not None and failure.code != "UNAVAILABLE":
                raise failure
            print(f"session ended ({failure}): registering again", file=sys.stderr)
            if not self.register_until(end):
                return
            print("registered again", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0; 1 when the server refused, 2 for bad flags, with one line on stderr."""
    try:
        cli.main(args=arguments, prog_name="python -m pegaref.client", standalone_mode=False)
    except click.ClickException as error:
        _refuse(" ".join(error.format_message().split()), USAGE_ERROR)
    except (ClientError, ImportError, OSError, RuntimeError, ValueError) as error:
        _refuse(str(error), FAILED)
    except click.Abort:
        _refuse("interrupted", 130)
    sys.exit(0)


def _print_line(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _refuse(line: str, code: int) -> NoReturn:
    print(f"pegaref.client: {line}", file=sys.stderr)
    sys.exit(code)
