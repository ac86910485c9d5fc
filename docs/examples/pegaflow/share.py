"""Stand for a vLLM worker: keep a tensor on the GPU, and print the handle that PegaFlow maps it with.

Prints one line of JSON and holds the tensor until stdin closes.
"""

import base64
import json
import pickle
import sys
from importlib.metadata import version

import torch
from pegaflow.ipc_wrapper import CudaIPCWrapper

BLOCKS, BLOCK_BYTES = 16, 65536

cache = torch.zeros((BLOCKS, BLOCK_BYTES), dtype=torch.uint8, device="cuda:0")
torch.cuda.synchronize()
wrapper = base64.b64encode(pickle.dumps(CudaIPCWrapper(cache))).decode()
line = {
    "wrapper": wrapper,
    "blocks": BLOCKS,
    "block_bytes": BLOCK_BYTES,
    "version": version("pegaflow-llm-cu13"),
}
print(json.dumps(line), flush=True)  # noqa: T201  # it is this line that is waited for
sys.stdin.read()
