"""What the ranks of one model tell each other while they compute: sums, and who has the best token.

A rank of a split model (`checkpoints/division.py`) has some heads and channels of every layer, and an equal part of the
vocabulary: rows of the embedding and of the head. `Alone` is the model that is whole, to which nobody has anything to
say.
"""

import torch.nn.functional as F
from torch import Tensor, distributed, nn


class Alone:
    """One rank, which has everything."""

    count = 1

    def own(self, weight: nn.Parameter) -> nn.Parameter:
        """This rank's rows of a weight with a row a token, of which it has these, or still all."""
        return weight

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over all ranks."""
        return x

    def embed(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """The rows (m, h) of tokens (m) in the embedding (vocabulary, h), of which each rank has its part."""
        return F.embedding(tokens, embedding)

    def greedy(self, logits: Tensor) -> Tensor:
        """The best tokens (m) by logits (m, vocabulary), of which each rank has its part."""
        return logits.argmax(-1)

    def whole(self, logits: Tensor) -> Tensor:
        """Logits (m, vocabulary) of the whole vocabulary, from each rank's part."""
        return logits


class Split(Alone):
    """All ranks of the process group, each with `rows` rows of the vocabulary."""

    def __init__(self, rows: int) -> None:
        self.count, self.rank = distributed.get_world_size(), distributed.get_rank()
        self.rows, self.first_token = rows, self.rank * rows

    def own(self, weight: nn.Parameter) -> nn.Parameter:
        if len(weight) == self.rows:
            return weight
        return nn.Parameter(weight.detach()[self.first_token :][: self.rows].clone(), requires_grad=False)

    def total(self, x: Tensor) -> Tensor:
        """In the place of x."""
        distributed.all_reduce(x)
        return x

    def embed(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """The rank that has a token's row gives it, the others zeros."""
        own = tokens - self.first_token
        mine = (own >= 0) & (own < self.rows)
        return self.total(F.embedding(own * mine, embedding) * mine[:, None])

    def greedy(self, logits: Tensor) -> Tensor:
        """Each rank's best, and of those the best: the first rank's where they are equal, as with one rank."""
        values, tokens = logits.max(-1)
        values, tokens = self._of_all(values.float()), self._of_all(tokens + self.first_token)
        return tokens.gather(0, values.argmax(0)[None])[0]

    def whole(self, logits: Tensor) -> Tensor:
        return self._of_all(logits).transpose(0, 1).flatten(1)

    def _of_all(self, x: Tensor) -> Tensor:
        """x (...) of all ranks, (ranks, ...)."""
        gathered = x.new_empty(self.count, *x.shape)
        distributed.all_gather(list(gathered), x.contiguous())
        return gathered
