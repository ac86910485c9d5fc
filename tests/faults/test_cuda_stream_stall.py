"""The device wedge: refused with the reason where there is no GPU, real and reversible where there is one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faults import Controller, Selector
from faults.errors import ArmFailed
from faults.launch import Launched

TARGET = Selector(cmdline="gpu_target")
gpu = [pytest.mark.gpu, pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU")]

# Counts 1 ms sleeps on a side thread; does one CUDA call for each line it reads, and says how long it took.
PROGRAM = textwrap.dedent(
    """
    import sys, threading, time
    if "cuda" in sys.argv:
        import torch
        x = torch.ones(1, device="cuda")  # now: a kernel's first launch loads it, and waits for a stalled GPU
        x.item()
    ticks = 0
    def count():
        global ticks
        while True:
            ticks += 1
            time.sleep(0.001)
    threading.Thread(target=count, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        cached = torch.empty(64 << 20, device="cuda"); del cached
        print("calling", flush=True)
        began, ticked = time.monotonic(), ticks
        {"synchronize": torch.cuda.synchronize, "item": x.item, "empty_cache": torch.cuda.empty_cache,
         "malloc": lambda: torch.empty(256 << 20, device="cuda")}[line.strip()]()
        print(f"{time.monotonic() - began:.3f} {ticks - ticked}", flush=True)
    """
)


@asynccontextmanager
async def running(controller: Controller, tmp_path: Path, *arguments: str) -> AsyncIterator[Launched]:
    program = tmp_path / "gpu_target.py"
    program.write_text(PROGRAM)
    launched = await controller.launch(
        [sys.executable, str(program), *arguments],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert launched.stdout is not None
    assert await asyncio.wait_for(launched.stdout.readline(), 60) == b"ready\n"
    yield launched


Ask = Callable[[str], Awaitable[None]]


async def ask(launched: Launched, what: str) -> None:
    """Have the target begin a CUDA call."""
    assert launched.stdin is not None
    assert launched.stdout is not None
    launched.stdin.write(what.encode() + b"\n")
    assert await asyncio.wait_for(launched.stdout.readline(), 30) == b"calling\n"


async def answer(launched: Launched, within_s: float = 20.0) -> tuple[float, int]:
    """How many seconds the call took, and how often the side thread ran meanwhile."""
    assert launched.stdout is not None
    took, ticks = (await asyncio.wait_for(launched.stdout.readline(), within_s)).split()
    return float(took), int(ticks)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="what is refused where there is no GPU")
async def test_without_a_gpu_it_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    async with Controller() as controller, running(controller, tmp_path):
        with pytest.raises(ArmFailed, match="no GPU"):
            async with controller.arm("cuda.stream_stall", process=TARGET):
                raise AssertionError("it must not be armed")
        async with controller.arm("noop", process=TARGET) as twin:
            await twin.wait_biting(5)


class TestOnAGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("stream", ["default", "own"])
    @pytest.mark.parametrize("call", ["synchronize", "item", "empty_cache"])
    async def test_what_waits_for_the_device_waits_until_release(
        self, tmp_path: Path, call: str, stream: str
    ) -> None:
        async with Controller() as controller, running(controller, tmp_path, "cuda") as launched:
            async with controller.arm(
                "cuda.stream_stall", process=TARGET, params={"stream": stream}
            ) as fault:
                found = await fault.wait_biting(10)
                await ask(launched, call)
                with pytest.raises(TimeoutError):
                    await answer(launched, 1.0)
                assert found.inside == 1
                status = await fault.release()
            took, ticks = await answer(launched)
            assert took >= 1.0
            assert ticks > 300  # the GIL was free while the call waited
            assert any("CUDA_ERROR_NOT_READY" in line for line in status.evidence)
            await ask(launched, call)
            assert (await answer(launched))[0] < 1.0

    async def test_the_twin_an_allocation_does_not_wait(self, tmp_path: Path) -> None:
        async with Controller() as controller, running(controller, tmp_path, "cuda") as launched:
            async with controller.arm("cuda.stream_stall", process=TARGET) as fault:
                await fault.wait_biting(10)
                await ask(launched, "malloc")
                assert (await answer(launched))[0] < 1.0

    async def test_the_lease_ends_it(self, tmp_path: Path) -> None:
        async with Controller() as controller, running(controller, tmp_path, "cuda") as launched:
            async with controller.arm("cuda.stream_stall", process=TARGET, lease_s=2.0) as fault:
                await fault.wait_biting(10)
                await ask(launched, "synchronize")
                assert (await answer(launched))[0] < 5.0

    async def test_a_held_gil_does_not_keep_it_from_being_released(self, tmp_path: Path) -> None:
        async with Controller() as controller, running(controller, tmp_path, "cuda") as launched:
            async with controller.arm("cuda.stream_stall", process=TARGET) as stall:
                await stall.wait_biting(10)
                async with controller.arm("gil.hold", process=TARGET, lease_s=20) as hold:
                    await hold.wait_biting(10)
                    await stall.release()
                await ask(launched, "synchronize")
                assert (await answer(launched))[0] < 1.0

    async def test_a_controller_that_is_killed_frees_the_gpu(self, tmp_path: Path) -> None:
        program = tmp_path / "gpu_target.py"
        program.write_text(PROGRAM)
        code = textwrap.dedent(
            """
            import asyncio, os, sys
            from faults import Controller, Selector
            GPU = Selector(cmdline="gpu_target")
            async def main():
                async with Controller() as controller:
                    print(controller.environment({})["FAULTS_AGENT"], flush=True)
                    await controller.wait_process(GPU, timeout_s=60)
                    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
                    async with controller.arm("cuda.stream_stall", process=GPU) as f:
                        await f.wait_biting(10)
                        print("biting", flush=True)
                        await asyncio.sleep(60)
            asyncio.run(main())
            """
        )
        pipe = asyncio.subprocess.PIPE
        controlling = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=pipe, stdout=pipe
        )
        assert controlling.stdout is not None
        assert controlling.stdin is not None
        address = (await asyncio.wait_for(controlling.stdout.readline(), 30)).decode().strip()
        path = os.pathsep.join([str(Path(sys.modules["faults"].__path__[0]) / "agent"), *sys.path])
        target = await asyncio.create_subprocess_exec(
            sys.executable, str(program), "cuda", stdin=pipe, stdout=pipe,
            env={**os.environ, "FAULTS_AGENT": address, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            assert target.stdout is not None
            assert target.stdin is not None
            assert await asyncio.wait_for(target.stdout.readline(), 60) == b"ready\n"
            controlling.stdin.write(b"go\n")
            assert await asyncio.wait_for(controlling.stdout.readline(), 30) == b"biting\n"
            target.stdin.write(b"synchronize\n")
            assert await asyncio.wait_for(target.stdout.readline(), 30) == b"calling\n"
            controlling.send_signal(signal.SIGKILL)
            took = float((await asyncio.wait_for(target.stdout.readline(), 10)).split()[0])
            assert took < 5.0
        finally:
            target.kill()
            await asyncio.gather(target.wait(), controlling.wait())
