"""Regenerates the committed Python code of `engine.proto`: `python -m pegaref.wire.generate [ROOT]`.

The generated files are committed, so the server needs no compiler. A test regenerates and compares them, so
they match the `.proto`.
"""

import sys
from pathlib import Path

PROTO = "pegaref/wire/engine.proto"
GENERATED = ("engine_pb2.py", "engine_pb2.pyi", "engine_pb2_grpc.py")
SOURCE_ROOT = Path(__file__).resolve().parents[2]


class GenerationFailed(Exception):
    """Raised by `generate` if the compiler rejects the `.proto`; the compiler's stderr says why."""


def generate(out: Path) -> tuple[Path, ...]:
    """Compiles `engine.proto` into `out/pegaref/wire/` and returns the files written.

    The output has a package path because the generated code imports its sibling by the path of the `.proto`:
    `pegaref.wire.engine_pb2`. Raises GenerationFailed.
    """
    from grpc_tools import protoc

    code: int = protoc.main(
        [
            "protoc",
            f"-I{SOURCE_ROOT}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            PROTO,
        ]
    )
    if code != 0:
        raise GenerationFailed(f"protoc ended with {code} on {PROTO}")
    return tuple(out / "pegaref" / "wire" / name for name in GENERATED)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE_ROOT)
