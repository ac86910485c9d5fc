"""The actor's process: `python -m pegaref.actor.child`, started only by the process placement.

It never outlives its parent: the kernel kills it when the parent dies, and it exits when its pipe is closed.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import logging
import os
import resource
import select
import signal
import time
from typing import Final, NoReturn

from pegaref import log
from pegaref.actor.frames import AnswerPipe, FrameError, FrameReader, request_reader
from pegaref.actor.heartbeat import TRACEBACK_SIGNAL, Heartbeat, PulsePage
from pegaref.actor.loop import ActorLoop, load_actor
from pegaref.errors import RegistryError
from pegaref.messages import Ending, Request

logger = logging.getLogger("pegaref.actor.child")

RECEIVE_BYTES: Final = 64 * 1024
PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>

EXIT_PARENT_GONE: Final = 3
EXIT_BAD_FRAME: Final = 4
EXIT_START_FAILED: Final = 5
EXIT_DEVICE_LOST: Final = 6

CHECK_EVERY_S: Final = 1.0  # how often the device is looked at


def main() -> NoReturn:
    """Serve requests from the inherited pipe until it is closed."""
    arguments = _arguments()
    if arguments.lost_lines_fd is not None:
        log.open_streams(log.LostLines(arguments.lost_lines_fd, cell=1 + arguments.device_id))
    logging.basicConfig(
        level=arguments.log_level,
        format=(
            f"%(asctime)s %(levelname)s actor[{arguments.device_id}.{arguments.epoch}] %(name)s: %(message)s"
        ),
    )
    _die_with(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles a terminal's Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    page = PulsePage(arguments.page_fd)
    os.close(arguments.page_fd)
    _offer_traceback(arguments.trace_fd, page)
    _raise_descriptor_limit()
    try:
        _serve(arguments, page)
    except FrameError as error:
        logger.error("the control process is not understood: %s", error)
        _exit(EXIT_BAD_FRAME)
    except BrokenPipeError:
        logger.info("the control process listens no more")
    _exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pegaref.actor.child")
    for name in ("device-id", "epoch", "parent", "requests-fd", "answers-fd", "page-fd", "trace-fd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--device-type", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--lost-lines-fd", type=int)
    parser.add_argument("--log-level", type=int, default=logging.INFO)
    return parser.parse_args()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, prctl(2). Exits if the parent is dead
    already."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        _exit(EXIT_PARENT_GONE)


def _offer_traceback(trace_fd: int, page: PulsePage) -> None:
    """On TRACEBACK_SIGNAL, write every thread's traceback to the file, even while the GIL is held.

    Only the heartbeat's thread receives the signal, so a call that hangs in another thread is not
    interrupted. faulthandler's handler is written in C and dumps all threads, whichever of them runs it.
    """
    faulthandler.register(TRACEBACK_SIGNAL, file=trace_fd, all_threads=True)
    Heartbeat(page, "heartbeat").start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {TRACEBACK_SIGNAL})
    page.enable_traceback()


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _serve(arguments: argparse.Namespace, page: PulsePage) -> None:
    answers = AnswerPipe(arguments.answers_fd)
    try:
        loop, ready = load_actor(arguments.device_id, arguments.device_type, page, answers)
    except (ImportError, RegistryError, RuntimeError) as error:  # the last is how CUDA says that it cannot
        logger.error("the actor cannot start: %s", error)
        answers.send_state(Ending(f"it cannot start: {error}"))
        _exit(EXIT_START_FAILED)
    answers.send_state(ready)
    has_gpu = arguments.device_type == "cuda"
    if failure := _answer_until_lost(arguments.requests_fd, request_reader(), loop, has_gpu=has_gpu):
        logger.error("the device is lost: %s", failure)
        answers.send_state(Ending(f"the device is lost: {failure}"))
        _exit(EXIT_DEVICE_LOST)


def _answer_until_lost(
    requests_fd: int, reader: FrameReader[Request], loop: ActorLoop, *, has_gpu: bool
) -> str:
    """Answer until the pipe is closed, and return ''; or until the GPU is lost, and return why."""
    requests = select.poll()
    requests.register(requests_fd, select.POLLIN)
    check_s = time.monotonic() + CHECK_EVERY_S
    while True:
        if not has_gpu or requests.poll(1000 * CHECK_EVERY_S):
            data = os.read(requests_fd, RECEIVE_BYTES)
            if not data:
                return ""
            for request in reader.feed(data):
                loop.handle(request)
        if has_gpu and (now_s := time.monotonic()) >= check_s:
            if failure := loop.device_failure():
                return failure
            check_s = now_s + CHECK_EVERY_S


def _exit(code: int) -> NoReturn:
    """End at once: there is nothing to tidy that the kernel does not, and tidying could hang."""
    log.finish()
    os._exit(code)


if __name__ == "__main__":
    main()
