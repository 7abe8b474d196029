"""How a model is divided over ranks: a part of every layer for each (tensor parallelism), or some whole layers
(pipeline parallelism).

For parts of layers, transformers reads and splits the weights by the plan in a model's configuration
(`base_model_tp_plan`): projections that make heads or channels by rows, those that read them by columns, the vocabulary
by rows. What it leaves to us are key-value heads: where there are fewer than ranks, a head has to be on several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

from udaciheadline.records import Unsupported

_KEY_VALUE = ("layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj")


def prepare(config: Any, ranks: int) -> Any:
    """The configuration, with a plan for this number of ranks. Raises Unsupported where it cannot divide the model."""
    if getattr(config, "base_model_tp_plan", None) is None:
        raise Unsupported(f"transformers has no plan to split a {config.model_type} model over ranks")
    heads, kv_heads = config.num_attention_heads, _kv_heads(config)
    if heads % ranks or (kv_heads % ranks and ranks % kv_heads):
        raise Unsupported(f"its {heads} query and {kv_heads} key-value heads cannot be divided over {ranks} ranks")
    for name in ("intermediate_size", "vocab_size"):
        if (size := getattr(config, name, 0)) % ranks:  # some models have no such part
            raise Unsupported(f"its {name} of {size} cannot be divided over {ranks} ranks")
    if kv_heads < ranks:
        config.base_model_tp_plan = {k: v for k, v in config.base_model_tp_plan.items() if k not in _KEY_VALUE}
    return config


def _kv_heads(config: Any) -> int:
    """How many heads the keys and values have: as many as the queries, where the family knows no groups of them."""
    return getattr(config, "num_key_value_heads", None) or int(config.num_attention_heads)


def keep_own_heads(model: Any, rank: int, ranks: int) -> None:
    """Cuts keys and values, which are whole on every rank where there are fewer heads than ranks, to the one head that
    this rank's queries read."""
    import torch

    kv_heads = _kv_heads(model.config)
    if kv_heads >= ranks:
        return
    d = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    own = rank * kv_heads // ranks
    for layer in model.model.layers:
        attention = layer.self_attn
        for projection in (attention.k_proj, attention.v_proj):
            weight = projection.weight.detach()[own * d : (own + 1) * d].clone()
            projection.weight = torch.nn.Parameter(weight, requires_grad=False)
        attention.num_key_value_groups = model.config.num_attention_heads // ranks


def local(weight: Any) -> Any:
    """This rank's part of a weight that is split; any other as it is."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


@dataclass(frozen=True)
class Stage:
    """The layers of one rank of a pipeline, and how many the model has. The first stage has the embedding too, the
    last one the head."""

    layers: range
    of: int

    @property
    def first(self) -> bool:
        """Whether it reads tokens."""
        return self.layers.start == 0

    @property
    def last(self) -> bool:
        """Whether it writes tokens."""
        return self.layers.stop == self.of


def stages(costs: Sequence[float], ranks: int) -> list[Stage]:
    """Layers of these costs, in order, in as many stages as there are ranks, so that the dearest stage is as cheap as
    it can be: a pipeline is as fast as that one. Raises Unsupported for fewer layers than ranks."""
    n = len(costs)
    if n < ranks:
        raise Unsupported(f"its {n} layers cannot be divided over {ranks} ranks: each needs one")
    until = [0.0, *accumulate(costs)]

    @cache
    def best(start: int, parts: int) -> tuple[float, tuple[int, ...]]:
        """The cost of the dearest of so many stages from layer `start` on, and where each of them ends."""
        if parts == 1:
            return until[n] - until[start], (n,)
        options = (
            (max(until[end] - until[start], rest), (end, *ends))
            for end in range(start + 1, n - parts + 2)
            for rest, ends in [best(end, parts - 1)]
        )
        return min(options, key=lambda option: option[0])

    return [Stage(range(*ends), n) for ends in pairwise((0, *best(0, ranks)[1]))]
