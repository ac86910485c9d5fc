"""A stream of the GPU waits for a word of host memory: a real device wedge, with no kernel and no reset.

Does: queues `cuStreamWaitValue32` on a stream of the process's primary context, on a word that controller
and sidecar can write. Whoever waits for the stream or the device waits with it: synchronize, item,
empty_cache with a cached block, and the closing of CUDA IPC memory, which keeps the GIL meanwhile. Work
queued before it still runs.
A user sees: a GPU at rest, and calls that never return. Release, the lease's end and the controller's death
write the word from outside, so that nothing in the process is needed for it.
Cannot: stall a process that has not used its GPU yet (refused), or what waits for another stream only.
`stream=default` is the stream that torch uses by default.
"""

from __future__ import annotations

import ctypes
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "cuda.stream_stall"
PROOF = "inside"
NEEDS = ("gpu",)
PARAMETERS = {
    "device": {"type": "int", "default": 0, "help": "the GPU, as this process numbers them"},
    "stream": {
        "type": "choice",
        "default": "default",
        "choices": ("default", "own"),
        "help": "the legacy default stream, or a new one that only device-wide waits notice",
    },
}

# Of the CUDA driver API, cuda.h.
NOT_READY = 600
WAIT_VALUE_GEQ = 0
REGISTER_PORTABLE_DEVICEMAP = 0x1 | 0x2
PAGE_BYTES = 4096
RELEASED_AT_BYTES = 9 * 8  # the word `released` of the fault's page
DRAIN_WITHIN_S = 5.0


class Driver:
    """The primary context of one GPU, through libcuda alone: no CUDA toolkit, no torch."""

    def __init__(self, fault: InjectedFault) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            fault.refuse("there is no libcuda.so.1 here: no NVIDIA driver, no GPU to stall")
        self._fault = fault
        self._device = ctypes.c_int()
        flags, active = ctypes.c_uint(), ctypes.c_int()
        number = fault.params["device"]
        if self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(number)):
            fault.refuse(
                f"this process uses no GPU {number}: has it called CUDA yet, and is that its number?"
            )
        self.need("cuDevicePrimaryCtxGetState", self._device, ctypes.byref(flags), ctypes.byref(active))
        if not active.value:
            fault.refuse(f"this process has no context on GPU {number}: arm it after its first CUDA call")

    def _call(self, name: str, *arguments: Any) -> int:
        return int(getattr(self._library, name)(*arguments))

    def need(self, name: str, *arguments: Any) -> None:
        """Call the driver; any error ends the fault, with the error's name."""
        code = self._call(name, *arguments)
        if code:
            text = ctypes.c_char_p()
            self._call("cuGetErrorName", ctypes.c_int(code), ctypes.byref(text))
            said = (text.value or b"an unknown error").decode()
            self.fail(f"{name} says {said}")

    def fail(self, what: str) -> NoReturn:
        """End the fault."""
        raise RuntimeError("the GPU cannot be stalled: " + what)

    def enter(self) -> None:
        """Make the context this thread's own, as any CUDA call of a new thread needs it."""
        context = ctypes.c_void_p()
        self.need("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.need("cuCtxSetCurrent", context)

    def leave(self) -> None:
        """Give the context back; it lives on with those that used it before."""
        self.need("cuCtxSetCurrent", None)
        self.need("cuDevicePrimaryCtxRelease_v2", self._device)

    def waits(self, stream: ctypes.c_void_p) -> bool:
        """Whether work is queued on the stream that has not come to its end."""
        code = self._call("cuStreamQuery", stream)
        if code not in (0, NOT_READY):
            self.need("cuStreamQuery", stream)
        return code == NOT_READY


def arm(fault: InjectedFault) -> object:
    """Refuse where there is no GPU in use; else queue the wait when told to."""
    driver = Driver(fault)
    fault.undo(fault.set_released)

    def stall() -> None:
        with fault.page_address() as address:
            driver.enter()
            try:
                _stall(fault, driver, address)
            finally:
                driver.leave()

    return lambda: fault.thread(stall)


def arm_sidecar(fault: InjectedFault) -> None:
    """In the sidecar: free the GPU when controller or lease are gone, whatever holds the GIL."""
    fault.undo(fault.set_released)


def _stall(fault: InjectedFault, driver: Driver, address: int) -> None:
    word, stream = ctypes.c_uint64(), ctypes.c_void_p()
    page = ctypes.c_void_p(address)
    own = fault.params["stream"] == "own"
    driver.need(
        "cuMemHostRegister_v2", page, ctypes.c_size_t(PAGE_BYTES), ctypes.c_uint(REGISTER_PORTABLE_DEVICEMAP)
    )
    try:
        driver.need("cuMemHostGetDevicePointer_v2", ctypes.byref(word), page, ctypes.c_uint(0))
        if own:
            driver.need("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(0))
        if not fault.count_call():
            return
        word.value += RELEASED_AT_BYTES
        driver.need("cuStreamWaitValue32_v2", stream, word, ctypes.c_uint32(1), ctypes.c_uint(WAIT_VALUE_GEQ))
        time.sleep(0.01)  # what was queued before may run; what still waits after it waits for the word
        if not driver.waits(stream):
            driver.fail("the stream did not wait")
        fault.details["stream_query"] = "CUDA_ERROR_NOT_READY"
        fault.notes.append(f"cuStreamQuery says CUDA_ERROR_NOT_READY on GPU {fault.params['device']}")
        fault.wait(then=lambda: _drain(fault, driver, stream))
    finally:
        _drain(fault, driver, stream)
        if own:
            driver.need("cuStreamDestroy_v2", stream)
        driver.need("cuMemHostUnregister", page)


def _drain(fault: InjectedFault, driver: Driver, stream: ctypes.c_void_p) -> None:
    """Wait until the stream is through, which it is at once when only the word kept it."""
    fault.set_released()
    give_up = time.monotonic() + DRAIN_WITHIN_S
    while driver.waits(stream) and time.monotonic() < give_up:
        time.sleep(0.001)
