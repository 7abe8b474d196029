"""A Llama for inference only: transformers' numbers, without what keeps transformers' model from being fast.

What a CUDA graph dislikes is left out: no tensor grows, no shape depends on data, no value is fetched to
decide what comes next. Three things make that possible:

* The cache has a fixed number of rows (texts) and slots (tokens). A text lies in its row from slot 0 on, so a token's
  slot is its position, for rotary embeddings and for causality alike. Rows of different lengths need no padding mask:
  what lies behind a row's own position is never looked at, and is overwritten when the text gets there.
* Everything but attention treats tokens one by one, so it runs on a flat list of tokens, whichever rows they are from.
* Query, key and value projections are one matrix, and so are the MLP's gate and up projections: fewer, larger products.

Shapes: m tokens, b rows, t tokens a row, s slots, hidden h, intermediate f; q query heads, n key-value heads of
dimension d. Llama: Touvron et al. 2023 (https://arxiv.org/abs/2302.13971), with the grouped queries of Ainslie et al.
2023 (https://arxiv.org/abs/2305.13245). Others are Llamas but for little: Mistral but for a window that none of our
texts fills (Jiang et al. 2023, https://arxiv.org/abs/2310.06825), Qwen2 but for biases of queries, keys and values
(Yang et al. 2024, https://arxiv.org/abs/2407.10671), Qwen3 but for norms of each query and key (Yang et al. 2025,
https://arxiv.org/abs/2505.09388).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaciheadline.checkpoints.division import Share, Stage, head_dim
from udaciheadline.engines.compiled.attention import rotary_frequencies, rotate
from udaciheadline.engines.compiled.families import check
from udaciheadline.engines.compiled.packed import Packed
from udaciheadline.engines.compiled.ranks import Alone, Split
from udaciheadline.engines.compiled.weights import Matrix, Quantized, packed, project, taken_over

Attention = Callable[..., Tensor]
"""From queries, keys and values (m, q + 2n, d) before rotation, and a layer's part of the cache, to what each token
reads: (m, q * d)."""

Cache = Sequence[tuple[Tensor, ...]]
"""Keys and values of each layer, (b, n, s, d) both; nothing where no step follows."""


RECOMPILES = 64  # programs of a layer's half in one process: for one token and for many, of each model and kind


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, computed in float32."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, source: Any, config: Any, ranks: Alone, kind: str | None) -> None:
        super().__init__()
        self.ranks = ranks
        attention, mlp = source.self_attn, source.mlp
        self.head_dim, self.eps = head_dim(config), config.rms_norm_eps
        self.attention_norm = taken_over(source.input_layernorm)  # (h)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        self.qkv = taken_over(*projections, kind=kind)  # ((q + 2n)d, h)
        # ((q + 2n)d)
        self.qkv_bias = None if attention.q_proj.bias is None else taken_over(*projections, name="bias")
        self.q_norm = taken_over(attention.q_norm) if hasattr(attention, "q_norm") else None  # (d)
        self.k_norm = taken_over(attention.k_norm) if hasattr(attention, "k_norm") else None  # (d)
        self.out = taken_over(attention.o_proj, kind=kind)  # (h, qd)
        self.mlp_norm = taken_over(source.post_attention_layernorm)  # (h)
        self.gate_up = taken_over(mlp.gate_proj, mlp.up_proj, kind=kind)  # (2f, h)
        self.down = taken_over(mlp.down_proj, kind=kind)  # (h, f)
        self.heads = self.out.shape[1] // self.head_dim
        self.kv_heads = (len(self.qkv) // self.head_dim - self.heads) // 2

    def forward(
        self, x: Tensor, attention: Attention, memory: tuple[Tensor, ...], keep: Tensor | None = None
    ) -> Tensor:
        """x (m, h) to (m, h), with this layer's part of the cache; only the tokens in `keep` (k) go on after attention,
        where it is given."""
        read = attention(self.before(x), *memory)
        return self.after(x, read) if keep is None else self.after(x[keep], read[keep])

    def before(self, x: Tensor) -> Tensor:
        """Queries, keys and values (m, q + 2n, d) of x (m, h)."""
        y = project(rms_norm(x, self.attention_norm, self.eps), self.qkv, self.qkv_bias)
        y = y.view(len(x), -1, self.head_dim)
        if self.q_norm is None or self.k_norm is None:
            return y
        q, k, v = y.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return torch.cat((rms_norm(q, self.q_norm, self.eps), rms_norm(k, self.k_norm, self.eps), v), dim=1)

    def after(self, x: Tensor, read: Tensor) -> Tensor:
        """x (m, h), with what attention read (m, qd), to (m, h)."""
        x = x + self.ranks.total(project(read, self.out))
        return x + self.ranks.total(self.mlp(x))

    def mlp(self, x: Tensor) -> Tensor:
        """What is to be added to x (m, h)."""
        gate, up = project(rms_norm(x, self.mlp_norm, self.eps), self.gate_up).chunk(2, dim=-1)
        return project(F.silu(gate) * up, self.down)


class Llama(nn.Module):
    """The model, filled from a transformers Llama or another of `families.FAMILIES`, whose weights it takes over layer
    by layer: `source` is of no use afterwards, and no second copy of the weights is ever held.

    `length` is the longest text in tokens, prompt and headline together. The layers' matrices are quantised to `kind`,
    one of `weights.KINDS`, where it is given, and the head to int8, each as it is taken over. Of several ranks, source
    is this one's `stage`, of which the first has the embedding and the last the head, or its `share` of every layer and
    of the vocabulary (`checkpoints/division.py`). Raises Unsupported for a model of another family, or with something
    that these do not have as published.
    """

    def __init__(
        self,
        source: Any,
        length: int,
        stage: Stage | None = None,
        share: Share | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__()
        config = source.config
        check(config)
        self.stage = stage or Stage(range(config.num_hidden_layers), config.num_hidden_layers)
        self.ranks = Split(share) if share else Alone()
        self.head_dim = head_dim(config)
        self.eps, self.length = config.rms_norm_eps, length
        self.vocabulary = config.vocab_size
        tied, head_kind = config.tie_word_embeddings, "int8" if kind else None
        embedding = taken_over(source.model.embed_tokens, kind=head_kind if tied else None)  # (vocabulary, h)
        head = embedding if tied else taken_over(source.lm_head, kind=head_kind)
        self.embedding: Any = embedding if self.stage.first else None
        self.head: Any = head if self.stage.last else None
        self.norm = taken_over(source.model.norm)
        self.device, self.dtype = self.norm.device, self.norm.dtype
        self.layers: Sequence[Layer] = nn.ModuleList()  # type: ignore[assignment]
        for i in range(config.num_hidden_layers):
            self.layers.append(Layer(source.model.layers[i], config, self.ranks, kind))  # type: ignore[attr-defined]
            source.model.layers[i] = nn.Identity()
        self.heads, self.kv_heads = self.layers[0].heads, self.layers[0].kv_heads
        angles = torch.outer(torch.arange(length), rotary_frequencies(self.head_dim, config.rope_parameters))
        angles = angles.to(self.device)[:, None]  # (length, 1, d/2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def read_once_a_pass(self) -> list[Tensor]:
        """The weights that a pass over any number of tokens has to read: of the embedding, a pass needs a few rows."""
        looked_up = self.embedding is not self.head
        return [w for name, w in self.named_parameters() if not (looked_up and name.startswith("embedding"))]

    def compile_layers(self) -> None:
        """Compiles what lies between attention and attention, once for all layers and all numbers of tokens.

        Compiling the whole model at once wins little more on a GPU, and takes as many times as long as it has layers.
        """
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, RECOMPILES)
        for layer in self.layers:
            layer.before = torch.compile(layer.before, fullgraph=True, dynamic=True)  # type: ignore[method-assign]
            if self.ranks.count == 1:
                layer.after = torch.compile(layer.after, fullgraph=True, dynamic=True)  # type: ignore[method-assign]
            else:  # what is summed over ranks stays outside
                layer.mlp = torch.compile(layer.mlp, fullgraph=True, dynamic=True)  # type: ignore[method-assign]
        self.rotated = torch.compile(self.rotated, fullgraph=True, dynamic=True)  # type: ignore[method-assign]

    def pack(self, own: bool = False) -> None:
        """Puts the weights of products into the order in which a CPU's matrix library reads them (oneDNN's), or, with
        `own`, in which our own products do.

        Otherwise it orders them anew for every product, which costs more than a product with few tokens. They can then
        be used for products alone: an embedding that is also the head stays. From the order of our own a row can be
        looked up, too, and the embedding is put into it.
        """

        def put(module: nn.Module, name: str, weight: Matrix) -> None:
            delattr(module, name)  # a module does not take the place of a parameter
            setattr(module, name, weight)

        order, tied = (Packed if own else packed), self.head is self.embedding
        for layer in self.layers:
            for name in ("qkv", "out", "gate_up", "down"):
                put(layer, name, order(getattr(layer, name)))
        if self.head is not None and (own or not tied):
            put(self, "head", order(self.head))
        if self.embedding is not None and own:
            put(self, "embedding", self.head if tied else order(self.embedding))

    def cache(self, rows: int, slots: int) -> Cache:
        """An empty cache for `rows` texts of at most `slots` tokens."""
        shape = (rows, self.kv_heads, slots, self.head_dim)
        return [(self.norm.new_zeros(shape), self.norm.new_zeros(shape)) for _ in self.layers]

    def prefill(self, given: Tensor, lengths: Tensor, cache: Cache, rows: Tensor) -> Tensor:
        """Reads prompts: tokens (b, t), the first `lengths` (b) of each row; logits (b, vocabulary) of the next token.
        A later stage is given the hidden states (b, t, h) of the one before; one before the last makes them.

        Their keys and values go to the `rows` (b) of the cache. In the last layer only each prompt's last token is
        still of interest, since nothing later asks for what the others would say there.
        """
        b, t = given.shape[:2]
        cos, sin = self._angles(b, t)

        def attention(y: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = self.rotated(y, cos, sin)
            k, v = (x.view(b, t, self.kv_heads, self.head_dim).transpose(1, 2) for x in (k, v))
            keys[rows, :, :t], values[rows, :, :t] = k, v
            return self._causal(q, k, v)

        last = torch.arange(b, device=given.device) * t + lengths - 1
        made = self._through(given.flatten(0, 1), attention, cache, last)
        return made if self.stage.last else made.view(b, t, -1)

    def decode(self, given: Tensor, slots: Tensor, cache: Cache) -> Tensor:
        """One step of the first b rows of the cache: tokens (b) at their slots (b); logits (b, vocabulary). Of a stage,
        hidden states (b, h) in their places."""
        return self._through(given, self._attention_of_a_step(slots, cache), cache)

    def extend(self, given: Tensor, place: Tensor, cache: Cache, keep: Tensor | None = None) -> Tensor:
        """Reads t more tokens (t) of the only text in the cache, from slot `place` (1) on: logits of what follows each
        of them (t, vocabulary), or those to `keep` (k)."""
        return self._through(given, self._attention_of_more(place, len(given), cache), cache, keep)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (m, vocabulary) of x (m, h), which the last layer made: of several ranks, each has its part of the
        vocabulary."""
        return project(rms_norm(x, self.norm, self.eps), self.head)

    def _attention_of_a_step(self, place: Tensor, cache: Cache) -> Attention:
        """What puts one token of each of the first b rows into the cache at its place (b), and then reads the cache."""
        if place.is_cuda:
            from udaciheadline.engines.compiled import kernels  # needs Triton, which a CPU build of torch comes without

            return partial(kernels.attend, self.cos, self.sin, place)
        b = len(place)
        cos, sin = self.cos[place], self.sin[place]
        slot = place.view(b, 1, 1, 1).expand(b, self.kv_heads, 1, self.head_dim)
        seen = torch.arange(cache[0][0].shape[2], device=place.device) <= place.view(b, 1, 1, 1)

        def attention(y: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = self.rotated(y, cos, sin)
            keys, values = keys[:b], values[:b]
            keys.scatter_(2, slot, k[:, :, None])
            values.scatter_(2, slot, v[:, :, None])
            # The queries that share a key-value head take the place of a text's tokens: (b, n, q/n, d).
            q = q.view(b, self.kv_heads, -1, self.head_dim)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen).flatten(1)

        return attention

    def _attention_of_more(self, place: Tensor, t: int, cache: Cache) -> Attention:
        """What puts t tokens of the only text into the cache, from its place (1) on, and reads it up to each."""
        if place.is_cuda:
            from udaciheadline.engines.compiled.extend import extend

            return partial(extend, self.cos, self.sin, place)
        slots = place + torch.arange(t)
        cos, sin = self.cos[slots], self.sin[slots]
        queries = self.heads // self.kv_heads
        seen = torch.arange(cache[0][0].shape[2]) <= slots[:, None, None]  # (t, 1, s)
        seen = seen.expand(t, queries, -1).reshape(1, 1, t * queries, -1)

        def attention(y: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = self.rotated(y, cos, sin)
            keys.index_copy_(2, slots, k.transpose(0, 1)[None])
            values.index_copy_(2, slots, v.transpose(0, 1)[None])
            # The queries that share a key-value head, of all tokens, take the place of a text's: (1, n, t * q/n, d).
            q = q.view(t, self.kv_heads, queries, -1).transpose(0, 1).reshape(1, self.kv_heads, t * queries, -1)
            read = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
            return read.view(self.kv_heads, t, queries, -1).transpose(0, 1).reshape(t, -1)

        return attention

    def forward(self, given: Tensor) -> Tensor:
        """Logits (b, t, vocabulary) of whole texts, tokens (b, t), without a cache; hidden states (b, t, h) as in
        `prefill`."""
        b, t = given.shape[:2]
        cos, sin = self._angles(b, t)

        def attention(y: Tensor) -> Tensor:
            q, k, v = self.rotated(y, cos, sin)
            k, v = (x.view(b, t, self.kv_heads, self.head_dim).transpose(1, 2) for x in (k, v))
            return self._causal(q, k, v)

        made = self._through(given.flatten(0, 1), attention, [()] * len(self.layers))
        return (self.ranks.whole(made) if self.stage.last else made).view(b, t, -1)

    def as_written(self, texts: Tensor, prompts: Sequence[int]) -> Tensor:
        """The same, with what is behind so many tokens of each text read as steps read it, where that makes a
        difference: a product of few rows in fp8 leaves x as it is (`mixed.py`)."""
        if not any(isinstance(part, Quantized) and part.floating and part.is_cuda for part in self.modules()):
            return self(texts)
        from udaciheadline.engines.compiled import mixed  # needs Triton, which a CPU build of torch comes without

        behind = torch.arange(texts.shape[1]) >= torch.tensor(prompts)[:, None]
        with mixed.as_steps(behind.flatten().nonzero()[:, 0].to(texts.device)):
            return self(texts)

    def rotated(self, y: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (m, q, d), k and v (m, n, d) from y (m, q + 2n, d): queries and keys turned by cos and sin (m, 1, d/2)."""
        qk, v = y.split([self.heads + self.kv_heads, self.kv_heads], dim=1)
        q, k = rotate(qk, cos, sin).split([self.heads, self.kv_heads], dim=1)
        return q, k, v

    def _angles(self, b: int, t: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (b * t, 1, d/2) for b texts from their first token on."""
        return self.cos[:t].repeat(b, 1, 1), self.sin[:t].repeat(b, 1, 1)

    def _through(self, given: Tensor, attention: Attention, cache: Cache, keep: Tensor | None = None) -> Tensor:
        """Tokens (m) through all layers: logits (m, vocabulary), or those of `keep` (k). Hidden states (m, h) from and
        for another stage. Of several ranks, each has the logits of its part of the vocabulary."""
        x = self.ranks.embed(given, self.embedding) if self.stage.first else given
        for layer, memory in zip(self.layers, cache, strict=True):
            ends = self.stage.last and layer is self.layers[-1]
            x = layer(x, attention, memory, keep if ends else None)
        return self.logits(x) if self.stage.last else x

    def _causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each token reads its own text up to itself: q (b * t, q, d), k and v (b, n, t, d)."""
        b, _, t, d = k.shape
        q = q.view(b, t, self.heads, d).transpose(1, 2)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # (b, q, t, d)
        return read.transpose(1, 2).reshape(b * t, -1)
