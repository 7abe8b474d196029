"""A library that touches CUDA when it is imported, and does so in the server that workers are forked from: as a pytest
plugin (`-p cuda_taken`), or imported first. No GPU is needed: what is forked from the server finds CUDA as torch leaves
it in such a process."""

import multiprocessing
import os


def _lose_cuda() -> None:
    import torch

    def fail() -> None:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    torch.cuda.init = torch.cuda.is_available = torch.cuda.is_bf16_supported = fail
    torch.cuda._is_in_bad_fork = lambda: True


if multiprocessing.current_process().name == "MainProcess" and "CUDA_TAKEN" not in os.environ:
    from udaciheadline.workers import processes

    os.environ["CUDA_TAKEN"] = "imported"  # the server, which inherits this, is another main process
    processes.PRELOAD.append(__name__)
elif "CUDA_TAKEN" in os.environ:
    os.register_at_fork(after_in_child=_lose_cuda)
