"""Memory of each rank into which the ranks of the same machine write, from inside their kernels.

A token's part of a sum is a few kilobytes: what a library's sum of them costs is launches and handshakes, more than the
matrix product before it. A store into another GPU's memory needs neither; torch's symmetric memory says where that is.
"""

import os

import torch
from torch import Tensor, distributed


class Peers:
    """An inbox of `words` 64-bit words on each rank: value and number of the step, see `kernels.py`.

    There are `words` of their own for each thing that a step sends, so a rank can be ahead of another: it cannot be a
    whole step ahead, because it waits for the other's parts in each.
    """

    def __init__(self, words: int, device: torch.device) -> None:
        from torch.distributed import _symmetric_memory

        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        self.inbox = _symmetric_memory.empty(words, dtype=torch.int64, device=device).zero_()
        # It maps the others' memory, and must live as long as their addresses are used.
        self._handle = _symmetric_memory.rendezvous(self.inbox, distributed.group.WORLD)  # type: ignore[arg-type]
        self.inboxes: Tensor = torch.tensor(self._handle.buffer_ptrs, dtype=torch.int64, device=device)
        self.step = torch.ones(1, dtype=torch.int64, device=device)
        torch.cuda.synchronize()
        distributed.barrier()  # no word may arrive in memory that is yet to be emptied


def can_reach_each_other() -> bool:
    """Whether all ranks are on this machine, and its GPUs can write into each other's memory; the same on all ranks."""
    ranks = distributed.get_world_size()
    if os.environ.get("LOCAL_WORLD_SIZE") != str(ranks):
        return False
    pairs = ((a, b) for a in range(ranks) for b in range(ranks) if a != b)
    return all(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)
