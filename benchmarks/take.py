"""Time the three endpoints from a process that does nothing else.

`python -m benchmarks.take PORT ADDRESS ROUNDS` prints each endpoint's round trips in seconds, as one
JSON object.
"""

from __future__ import annotations

import json
import sys

from benchmarks import shots
from benchmarks.figures import alternate

BATCH = 50


def main(http_port: int, grpc_address: str, rounds: int) -> None:
    """Take the figures and print them."""
    taken = alternate(
        {
            "/health": shots.fresh(http_port, "/health"),
            "/metrics": shots.fresh(http_port, "/metrics"),
            "gRPC health": shots.grpc_health(grpc_address),
        },
        rounds=rounds,
        batch=BATCH,
    )
    print(json.dumps({name: latencies.samples_s for name, latencies in taken.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
