"""How a model is divided over ranks: a share of every layer for each (tensor parallelism), or some whole layers
(pipeline parallelism).

The compiled engine's ranks have a `Share` or a `Stage`: each is a model of its own, a smaller one of the same family,
and only its part of the weights is read.

For `generate`, transformers reads and splits the weights by the plan in a model's configuration (`base_model_tp_plan`),
evenly or not at all. What it leaves to us are key-value heads: where there are fewer than ranks, a head has to be on
several.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from math import gcd
from typing import TYPE_CHECKING, Any

from udaciheadline.records import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNED = 16  # values: rows of a matrix that are a multiple of so many long, a GPU reads fastest


def head_dim(config: Any) -> int:
    """Dimensions of a head: those that a configuration names, else the hidden size over the heads."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _dealt(count: int, ranks: int, unit: int = 1) -> list[range]:
    """So many things in a row for each rank, as evenly as whole units can be; the first ranks get more."""
    ends = [-(-count // unit * rank // ranks) * unit for rank in range(ranks + 1)]
    return [range(*ends) for ends in pairwise(ends)]


@dataclass(frozen=True)
class Share:
    """What rank `rank` of `ranks` has of every layer and of the vocabulary; `of` is the whole model's configuration.

    A rank has whole groups of a key-value head and the query heads that read it. Where there are fewer groups than
    ranks, several have the same key-value head, and some of its queries each. Ranks wait for each other after attention
    and again after the MLP: a rank with more heads is not made up for by fewer channels, so each is dealt out by itself
    as evenly as it can be. Raises Unsupported for fewer query heads than ranks.
    """

    of: Any
    rank: int
    ranks: int

    def __post_init__(self) -> None:
        if self.of.num_attention_heads < self.ranks:
            raise Unsupported(
                f"its {self.of.num_attention_heads} query heads cannot be divided over {self.ranks} ranks: "
                "each needs one"
            )

    @cached_property
    def heads(self) -> tuple[range, range]:
        """Its query heads, and the key-value heads that they read."""
        kv_heads = self.of.num_key_value_heads
        group = self.of.num_attention_heads // kv_heads
        if kv_heads >= self.ranks:
            own = _dealt(kv_heads, self.ranks)[self.rank]
            return range(own.start * group, own.stop * group), own
        sharing = _dealt(self.ranks, kv_heads)  # the ranks that have each key-value head
        head = next(head for head, ranks in enumerate(sharing) if self.rank in ranks)
        own = _dealt(group, len(sharing[head]))[self.rank - sharing[head].start]
        return range(head * group + own.start, head * group + own.stop), range(head, head + 1)

    @cached_property
    def channels(self) -> range:
        """Its channels of the MLP."""
        count = self.of.intermediate_size
        return _dealt(count, self.ranks, gcd(count, _ALIGNED) if count % self.ranks else 1)[self.rank]

    @cached_property
    def tokens(self) -> list[range]:
        """Each rank's tokens: its rows of the embedding and of the head."""
        return _dealt(self.of.vocab_size, self.ranks)

    @cached_property
    def parameters(self) -> int:
        """The number of weights of the whole model."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return int(AutoModelForCausalLM.from_config(self.of).num_parameters())

    def config(self, whole: Any) -> Any:
        """The configuration of the model that this rank has."""
        own = deepcopy(whole)
        own.head_dim = head_dim(whole)
        own.num_attention_heads, own.num_key_value_heads = map(len, self.heads)
        own.intermediate_size, own.vocab_size = len(self.channels), len(self.tokens[self.rank])
        own.pad_token_id = None  # it may be another rank's
        return own

    def name_here(self, name: str) -> str | None:
        """What a weight of the whole model is called here: it has a part of each."""
        return name

    def cut(self, name: str, weight: Any) -> "Tensor":
        """This rank's part of a weight or bias, which is a tensor, or can be read by `weight[...]`."""
        d, every = head_dim(self.of), slice(None)
        queries, keys = (slice(own.start * d, own.stop * d) for own in self.heads)
        channels, tokens = (slice(own.start, own.stop) for own in (self.channels, self.tokens[self.rank]))
        rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": channels, "up_proj": channels}
        rows |= {"embed_tokens": tokens, "lm_head": tokens}
        columns = {"o_proj": queries, "down_proj": channels}
        module = name.rpartition(".")[0].rpartition(".")[2]
        part = weight[every, columns[module]] if module in columns else weight[rows.get(module, every)]
        return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()  # a view would keep the whole


_LAYER = re.compile(r"((?:model\.)?layers\.)(\d+)\.")


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

    def config(self, whole: Any) -> Any:
        """The configuration of a model of these layers alone."""
        own = deepcopy(whole)
        own.num_hidden_layers = len(self.layers)
        if getattr(whole, "layer_types", None):
            own.layer_types = whole.layer_types[self.layers.start : self.layers.stop]
        return own

    def name_here(self, name: str) -> str | None:
        """What a weight of the whole model is called here; None: it is another stage's."""
        if (layer := _LAYER.match(name)) is None:
            return name
        number = int(layer[2])
        return f"{layer[1]}{number - self.layers.start}.{name[layer.end() :]}" if number in self.layers else None

    def cut(self, name: str, weight: Any) -> "Tensor":
        """All of a weight, which is a tensor, or can be read by `weight[...]`."""
        whole: Tensor = weight[:]
        return whole


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


_UNEVENLY = ", as transformers' plan needs it: --engine compiled divides unevenly"
_KEY_VALUE = ("layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj")


def prepare(config: Any, ranks: int) -> Any:
    """The configuration, with a plan for this number of ranks. Raises Unsupported where it cannot divide the model."""
    if not getattr(config, "base_model_tp_plan", None):
        raise Unsupported(f"transformers has no plan to split a {config.model_type} model over ranks")
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % ranks or (kv_heads % ranks and ranks % kv_heads):
        raise Unsupported(
            f"its {heads} query and {kv_heads} key-value heads cannot be divided over {ranks} ranks evenly{_UNEVENLY}"
        )
    for name in ("intermediate_size", "vocab_size"):
        if (size := getattr(config, name, 0)) % ranks:
            raise Unsupported(f"its {name} of {size} cannot be divided over {ranks} ranks evenly{_UNEVENLY}")
    if kv_heads < ranks:
        config.base_model_tp_plan = {k: v for k, v in config.base_model_tp_plan.items() if k not in _KEY_VALUE}
    return config


def keep_own_heads(model: Any, rank: int, ranks: int) -> None:
    """Cuts keys and values, which are whole on every rank where there are fewer heads than ranks, to the one head that
    this rank's queries read."""
    import torch

    kv_heads = getattr(model.config, "num_key_value_heads", ranks)
    if kv_heads >= ranks:
        return
    d = head_dim(model.config)
    own = rank * kv_heads // ranks
    for layer in model.model.layers:
        attention = layer.self_attn
        for projection in (attention.k_proj, attention.v_proj):
            for name, whole in list(projection.named_parameters()):
                part = whole.detach()[own * d : (own + 1) * d].clone()
                setattr(projection, name, torch.nn.Parameter(part, requires_grad=False))
        attention.num_key_value_groups = model.config.num_attention_heads // ranks


def local(weight: Any) -> Any:
    """This rank's part of a weight that is split; any other as it is."""
    return weight.to_local() if hasattr(weight, "to_local") else weight
