"""Grows a small Llama to the size of a published one without changing what it writes: `shape:llama-3.2-1b` and kin.

What it is. Every matrix of the large architecture is made at its true size; the small model's weights lie in one part
of it, the rest is seeded noise that is kept from the output (after Net2Net, Chen et al. 2015,
https://arxiv.org/abs/1511.05641). Both models give every token the same probability, up to rounding.

Why. Speed and memory depend on the sizes of the matrices, headlines on what is in them. A published checkpoint has
both, but is gated, and gigabytes to download. One with random weights writes noise: it has no quality to lose, never
ends its sequence, and no draft model could guess its tokens. A grown model costs what the large architecture costs and
writes what the small model writes, so that one table can show both, anywhere.

How nothing changes, for a small model with hidden size h and head dimension d, and a large one with H and D:

* Hidden size: the first h of H channels live. Embeddings hold zeros in the others and no layer adds to them, so the
  columns that read them can be noise. RMSNorm takes the mean over H: its weights times sqrt(h/H) make up for that.
* Heads: a query head goes where the KV head is its own, or a copy of it. In a wider head, the rotary pair (i, i + d/2)
  goes to (j, j + D/2) with j = i D/d, which has the same frequency theta^(-2j/D). The head's other query dimensions
  are zero, and the living ones are multiplied by sqrt(D/d), as scores are divided by sqrt(D).
* Layers: the small model's are spread evenly. In the others, and in the MLP channels and KV heads that are too many,
  the value and up projections ignore the living channels: values and activations, hence what is added, are exactly
  zero. (Zeros in the output and down projections would do it too, but would be a third of all weights.)
* Vocabulary: tokens that are too many never win, and take no probability from the others. See `SIGNAL`.

In bfloat16 and float16, weights that were multiplied are rounded once more, except by the 1/4 = sqrt(h/H) that takes
the embedded main model to 1B and the target to 8B.

When it misleads. Most *activations* are zeros, even if most weights are not: a GPU that multiplies by zeros draws less
power and may clock higher, so the times of large batches and long prompts are optimistic. (Matrices all of zeros would
be worse.) The noise was never trained: pruning, which compares
magnitudes, and quantisation, where weights of a row share a scale, meet a mixture, and hurt it otherwise than a trained
large model. And the headlines are a small model's, whatever the size.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

from udaciheadline.records import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import LlamaConfig


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama: `tied` where the head is the embedding matrix, `head_dim` the size of one head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool


# From the config.json of meta-llama/Llama-3.2-1B, Llama-3.2-3B and Llama-3.1-8B.
SHAPES = {
    "llama-3.2-1b": Shape(2048, 16, 32, 8, 64, 8192, 128256, True),
    "llama-3.2-3b": Shape(3072, 28, 24, 8, 128, 8192, 128256, True),
    "llama-3.1-8b": Shape(4096, 32, 32, 8, 128, 14336, 128256, False),
}

_CONFIG_NAMES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "tied": "tie_word_embeddings",
}

SIGNAL = 2.0**-6
"""What every token's embedding holds in one more channel, p = h, which no layer reads or writes: only the head does.

Let S be the sum of squares of the living channels before the final norm. The large model's eps takes the signal's
square off again, so that RMSNorm divides by sqrt((S + h eps) / H), with the small model's eps. The final norm's weight
at p is such that the head reads 8 / sqrt(S + h eps) there. A surplus token's row of the head holds -2^13 at p and zeros
in the living channels: its logit is -2^16 / sqrt(S + h eps).

Over all tokens alone and 60 articles, sqrt(S) was 3.3 to 13 in the embedded main model and 30 to 305 in the target,
and real logits were -15 to 31. Surplus ones are thus between -20 000 and -210: 100 000 of them together have a
probability below e^-200, which is 0 in any dtype, and all numbers fit float16, which ends at 65504. (A tied head's real
rows hold the signal too: that adds the same 2^-3 / sqrt(S) < 0.04 to each real logit, which changes no probability.)
"""
_HEAD_READS = 8.0
_SURPLUS_ROW = -(2.0**13)
_NOISE = 0.02  # standard deviation: Llama's `initializer_range`


@dataclass(frozen=True)
class Weight:
    """A tensor that is made when it is asked for, by `weight[...]`, as a slice of a safetensors file is read.

    So a model that is quantised while it loads never has all of its weights in full precision on the device, and none
    is there twice. It is noise, seeded by its name, in which `patches` (index, value) are set one after the other.
    """

    name: str
    size: tuple[int, ...]
    patches: "tuple[tuple[Any, Tensor | float], ...]"
    device: str
    dtype: "torch.dtype"

    def get_shape(self) -> list[int]:
        """Its size, by the name that a slice of a safetensors file has for it."""
        return list(self.size)

    def __getitem__(self, part: Any) -> "Tensor":
        import torch

        generator = torch.Generator(self.device).manual_seed(zlib.crc32(self.name.encode()))
        tensor = torch.empty(self.size, device=self.device, dtype=self.dtype).normal_(std=_NOISE, generator=generator)
        for index, value in self.patches:
            tensor[index] = value.to(tensor) if isinstance(value, torch.Tensor) else value
        own = tensor[part]
        return own if own.numel() == tensor.numel() else own.clone()  # a view would keep the whole


def grow(
    config: "LlamaConfig", state: "Mapping[str, Tensor]", shape: Shape, *, device: str, dtype: "torch.dtype"
) -> "tuple[LlamaConfig, dict[str, Weight]]":
    """The configuration and the weights of a Llama of `shape` that writes what the small one does.

    `config` and `state` are the small model's, by transformers' names. Each weight is made on `device`, in `dtype`, at
    its final size, when it is asked for, and is the same each time; kinds of device differ in their noise. Raises
    UsageError where the small model does not fit into the shape.
    """
    import torch

    small = Shape(**{field: getattr(config, name) for field, name in _CONFIG_NAMES.items()})
    group, large_group = small.heads // small.kv_heads, shape.heads // shape.kv_heads
    copies = ceil(group / large_group)  # of each KV head, so that all its query heads find room
    _require_fit(config, small, shape, copies)

    every, hidden, inner = slice(None), slice(small.hidden), slice(small.intermediate)
    signal, real, surplus = small.hidden, slice(small.vocabulary), slice(small.vocabulary, None)
    # Where the rows of small heads go. KV head j has its copies side by side; in the groups of query heads that belong
    # to them, side by side too, there is room for those of j.
    within = torch.arange(shape.head_dim).view(2, -1)[:, :: shape.head_dim // small.head_dim].flatten()  # (d,)
    heads = torch.tensor([j * copies * large_group + t for j in range(small.kv_heads) for t in range(group)])
    queries = (heads[:, None] * shape.head_dim + within).flatten()  # (query heads * d,)
    copied = torch.arange(small.kv_heads * copies)
    keys = (copied[:, None] * shape.head_dim + within).flatten()  # (KV heads * copies * d,)
    busy = slice(small.kv_heads * copies * large_group * shape.head_dim)  # of query heads that read values, not zeros

    # Per projection: rows and columns; what is cleared of noise; where the small weight goes.
    query_rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    projections = {
        "self_attn.q_proj": ((query_rows, shape.hidden), (busy, hidden), (queries, hidden)),
        "self_attn.k_proj": ((kv_rows, shape.hidden), (slice(0), hidden), (keys, hidden)),
        "self_attn.v_proj": ((kv_rows, shape.hidden), (every, hidden), (keys, hidden)),
        "self_attn.o_proj": ((shape.hidden, query_rows), (every, busy), (hidden, queries)),
        "mlp.gate_proj": ((shape.intermediate, shape.hidden), (slice(0), hidden), (inner, hidden)),
        "mlp.up_proj": ((shape.intermediate, shape.hidden), (every, hidden), (inner, hidden)),
        "mlp.down_proj": ((shape.hidden, shape.intermediate), (every, inner), (hidden, inner)),
    }
    weights: dict[str, Weight] = {}

    def add(name: str, size: tuple[int, ...], *patches: "tuple[Any, Tensor | float]") -> None:
        weights[f"{name}.weight"] = Weight(name, size, patches, device, dtype)

    def trained(name: str) -> "Tensor":
        weight = state[f"{name}.weight"].float()
        if name.endswith("q_proj"):
            return weight * sqrt(shape.head_dim / small.head_dim)
        if name.endswith(("k_proj", "v_proj")):
            return weight.view(small.kv_heads, 1, small.head_dim, -1).expand(-1, copies, -1, -1).reshape(len(keys), -1)
        return weight

    shrink = sqrt(small.hidden / shape.hidden)
    spread = {i * shape.layers // small.layers: i for i in range(small.layers)}
    for layer in range(shape.layers):
        here, there = f"model.layers.{layer}.", f"model.layers.{spread.get(layer)}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm = trained(there + name) if layer in spread else 1.0
            add(here + name, (shape.hidden,), (every, 0.0), (hidden, norm * shrink))
        for name, (size, cleared, place) in projections.items():
            corner = [(place, trained(there + name))] if layer in spread else []
            add(here + name, size, (cleared, 0.0), *corner)

    reads = (signal, _HEAD_READS / (SIGNAL * sqrt(shape.hidden)))
    add("model.norm", (shape.hidden,), (every, 0.0), (hidden, trained("model.norm") * shrink), reads)
    size, embedding = (shape.vocabulary, shape.hidden), trained("model.embed_tokens")
    losing = (((surplus, hidden), 0.0), ((surplus, signal), _SURPLUS_ROW))
    add("model.embed_tokens", size, *losing, (real, 0.0), ((real, hidden), embedding), ((real, signal), SIGNAL))
    if not shape.tied:
        head = embedding if small.tied else trained("lm_head")
        add("lm_head", size, *losing, ((real, hidden), head), ((real, signal), 0.0))
    sizes = {name: getattr(shape, field) for field, name in _CONFIG_NAMES.items()}
    eps = (config.rms_norm_eps * small.hidden - SIGNAL**2) / shape.hidden
    return type(config).from_dict(config.to_dict() | sizes | {"rms_norm_eps": eps}), weights


def _require_fit(config: "LlamaConfig", small: Shape, shape: Shape, copies: int) -> None:
    for what, needed, there in (
        ("hidden channels", small.hidden + 1, shape.hidden),  # one for the signal
        ("layers", small.layers, shape.layers),
        ("KV heads", small.kv_heads * copies, shape.kv_heads),
        ("MLP channels", small.intermediate, shape.intermediate),
        ("tokens", small.vocabulary, shape.vocabulary),
    ):
        if needed > there:
            raise UsageError(f"the model cannot be grown: it needs {needed} {what}, and the shape has {there}")
    for cannot, why in (
        (shape.head_dim % small.head_dim, f"heads of {small.head_dim} do not divide the shape's of {shape.head_dim}"),
        (shape.tied and not small.tied, "its head is a matrix of its own, and the shape's is the embedding"),
        (config.attention_bias or config.mlp_bias, "it has biases, and the shape has none"),
        (config.rms_norm_eps * small.hidden <= SIGNAL**2, f"its rms_norm_eps of {config.rms_norm_eps} is too small"),
    ):
        if cannot:
            raise UsageError(f"the model cannot be grown: {why}")
