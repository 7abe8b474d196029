"""What a CPU runs of ours in C++ (`cpu/`): built once by g++, or the compiler in CXX, and kept.

Nothing of torch is included, so a build takes seconds. Functions take addresses, of structs and of tensors that their
caller holds.
"""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

from udaciheadline.records import UsageError

SOURCES = (Path(__file__).parent / "cpu" / "text.cpp", Path(__file__).parent / "cpu" / "products.h")
FLAGS = (
    "-std=gnu++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-fopenmp",
    "-shared",
    "-fPIC",
)


class Matrix(ctypes.Structure):
    """See `Matrix` in cpu/products.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("words", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    )


class Layer(ctypes.Structure):
    """See `Layer` in cpu/text.cpp."""

    _fields_ = (
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm", "keys", "values")),
    )


class Model(ctypes.Structure):
    """See `Model` in cpu/text.cpp."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("embedding", Matrix),
        ("head", Matrix),
        *((name, ctypes.c_void_p) for name in ("norm", "cos", "sin", "ends", "breaks", "blanks")),
        *((name, ctypes.c_int64) for name in ("count", "heads", "kv_heads", "head_dim", "slots")),
        ("eps", ctypes.c_float),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The functions of cpu/, for this very processor.

    Raises UsageError where the compiler is missing or fails.
    """
    compiler = os.environ.get("CXX", "g++")
    try:
        # What -march=native means is part of the name: several machines may have one home.
        shown = subprocess.run(
            [compiler, *FLAGS, "-E", "-v", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
        )
        means = [line for line in shown.stderr.splitlines() if "cc1plus" in line or "-cc1" in line]
        key = hashlib.sha256(
            "\n".join([*(source.read_text("utf-8") for source in SOURCES), *means]).encode()
        ).hexdigest()[:16]
        root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
        kept = Path(root) / "udaciheadline" / f"cpu-{key}.so"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:  # another process may be building it, too
                made = Path(folder) / kept.name
                command = [compiler, *FLAGS, str(SOURCES[0]), "-o", str(made)]
                subprocess.run(command, capture_output=True, text=True, check=True)
                made.replace(kept)
        loaded = ctypes.CDLL(str(kept))
        number, address = ctypes.c_int64, ctypes.c_void_p
        loaded.lanes.restype = number
        loaded.product.argtypes = (ctypes.POINTER(Matrix), address, number, address, number)
        loaded.read_tokens.argtypes = (ctypes.POINTER(Model), address, number, number)
        loaded.read_tokens.restype = number
        loaded.write_tokens.argtypes = (ctypes.POINTER(Model), *[number] * 4, address)
        loaded.write_tokens.restype = number
        return loaded
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).splitlines()
        reason = next((line for line in lines if "error" in line), lines[0])  # behind what the compiler says of itself
        raise UsageError(f"the compiled engine cannot be built ({reason}): on a CPU it needs g++") from error


def trim() -> None:
    """Gives what was freed back to the system, where the C library can (glibc): quantising and packing go through as
    much memory as the weights had, which would count as the engine's otherwise."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
