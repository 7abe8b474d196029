"""What the ranks of one model tell each other while they compute: sums, and who has the best token.

A rank of a split model (`checkpoints/division.py`) has some heads and channels of every layer, and a part of the
vocabulary: rows of the embedding and of the head. `Alone` is the model that is whole, to which nobody has anything to
say.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from udaciheadline.checkpoints.division import Share
from udaciheadline.engines.compiled.weights import Matrix, embed


class Alone:
    """One rank, which has everything, from the first token of the vocabulary on."""

    count = 1
    first_token = 0

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over all ranks."""
        return x

    def embed(self, tokens: Tensor, embedding: Matrix) -> Tensor:
        """The rows (m, h) of tokens (m) in the embedding (vocabulary, h), of which each rank has its part."""
        return embed(tokens, embedding)

    def greedy(self, logits: Tensor) -> Tensor:
        """The best tokens (m) by logits (m, vocabulary), of which each rank has its part."""
        return logits.argmax(-1)

    def whole(self, logits: Tensor) -> Tensor:
        """Logits (m, vocabulary) of the whole vocabulary, from each rank's part."""
        return logits


class Split(Alone):
    """All ranks of the process group, of which this one has `share`."""

    def __init__(self, share: Share) -> None:
        self.count, self._tokens = share.ranks, share.tokens
        self.first_token = share.tokens[share.rank].start

    def total(self, x: Tensor) -> Tensor:
        """In the place of x."""
        distributed.all_reduce(x)
        return x

    def embed(self, tokens: Tensor, embedding: Matrix) -> Tensor:
        """The rank that has a token's row gives it, the others zeros."""
        own = tokens - self.first_token
        mine = (own >= 0) & (own < len(embedding))
        return self.total(embed(own * mine, embedding) * mine[:, None])

    def greedy(self, logits: Tensor) -> Tensor:
        """Each rank's best, and of those the best: the first rank's where they are equal, as with one rank."""
        values, tokens = logits.max(-1)
        values, tokens = self._of_all(values.float()), self._of_all(tokens + self.first_token)
        return tokens.gather(0, values.argmax(0)[None])[0]

    def whole(self, logits: Tensor) -> Tensor:
        most = max(map(len, self._tokens))
        parts = self._of_all(F.pad(logits, (0, most - logits.shape[1])))
        return torch.cat([part[:, : len(own)] for part, own in zip(parts, self._tokens, strict=True)], dim=1)

    def _of_all(self, x: Tensor) -> Tensor:
        """x (...) of all ranks, (ranks, ...)."""
        gathered = x.new_empty(self.count, *x.shape)
        distributed.all_gather(list(gathered), x.contiguous())
        return gathered
