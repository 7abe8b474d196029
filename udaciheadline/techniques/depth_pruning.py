"""Depth pruning: the layers that the model misses least are removed.

Neighbouring layers of a deep model do nearly the same to a token, so some of them can go (ShortGPT, Men et al. 2024,
https://arxiv.org/abs/2403.03853). Which ones is measured, not guessed from the angle between what goes in and what
comes out: one layer after the other is removed, each time the one without which true headlines of articles that are not
measured stay likeliest (SLEB, Song et al. 2024, https://arxiv.org/abs/2402.09025).

A pass reads the removed layers no more, and keeps no keys and values of them: it is shorter by the share of its bytes
that they were, at any batch size, on any device: the embedded model writes a token 1.31 ±.01 times as fast. What it
costs is headlines, and it pays only healed (`python -m udaciheadline.train --prune depth --teacher`): pruning alone
costs the embedded model, which has four layers, .37 nats a token, and .02 are left after 96,000 articles of
distillation; SmolLM2 without 8 of its 30 loses 1.6 (docs/performance.md). Where the vocabulary is most of a model,
little is removed: a quarter of the embedded model's layers is 16 % of its weights.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from udaciheadline.checkpoints import home
from udaciheadline.data.prompts import completion_for, prompt_for
from udaciheadline.records import Article, Unsupported
from udaciheadline.techniques._removal import SHARE, Loss, build, decoder, prune_with
from udaciheadline.techniques._technique import Technique

SOURCES = [Path(__file__), Path(__file__).with_name("_removal.py")]


def prune_depth(model: Any, loss: Loss, share: float = SHARE) -> dict[str, float]:
    """Removes this `share` of a transformers model's layers, rounded up, in place: one after the other, each time the
    one whose removal costs the least `loss`.

    A layer rarely costs less once another one is gone, so what it cost before is taken for the least that it costs now,
    and only the cheapest is asked again, until it stays the cheapest (the lazy greedy algorithm, Minoux 1978,
    https://doi.org/10.1007/BFb0006528). Returns how many are left, and what their removal cost in nats a token. Raises
    Unsupported for a model of another family, or of a single layer.
    """
    from torch import nn

    body = decoder(model)
    layers = list(body.layers)
    if len(layers) == 1:
        raise Unsupported("it has a single layer, and no depth to prune")
    kept = list(range(len(layers)))
    costs: dict[int, float] = {}
    whole = now = loss()
    for _ in range(math.ceil(share * len(layers))):
        measured: dict[int, float] = {}
        while (cheapest := min(kept, key=lambda layer: costs.get(layer, -math.inf))) not in measured:
            body.layers = nn.ModuleList(layers[i] for i in kept if i != cheapest)
            measured[cheapest] = loss()
            costs[cheapest] = measured[cheapest] - now
        kept.remove(cheapest)
        now = measured[cheapest]
    keep_layers(model, layers, kept)
    return {"layers_left": len(kept), "pruning_nats": now - whole}


def prune_once(model: Any, tokenizer: Any, articles: Sequence[Article]) -> dict[str, float]:
    """`prune_with` `prune_depth`. Of a model on a CPU it is kept which layers are left: to find out takes 42 s of
    two cores with SmolLM2, and each process of a row would do it anew."""
    layers, folder = list(decoder(model).layers), home.folder("pruned")
    if folder is None or model.device.type != "cpu":
        return prune_with(prune_depth, model, tokenizer, articles)
    texts = [prompt_for(article.short_description) + completion_for(article.headline) for article in articles]
    file = folder / f"{home.fingerprint(model, SOURCES, tokenizer(texts)['input_ids'])}.json"
    with contextlib.suppress(OSError, ValueError):
        kept, details = json.loads(file.read_text("utf-8"))
        home.used(file)
        keep_layers(model, layers, kept)
        return cast(dict[str, float], details)
    details = prune_with(prune_depth, model, tokenizer, articles)
    left = [layers.index(layer) for layer in decoder(model).layers]
    with contextlib.suppress(OSError), home.writing(file) as own:
        own.write_text(json.dumps([left, details]), "utf-8")
    return details


def keep_layers(model: Any, layers: Sequence[Any], kept: Sequence[int]) -> None:
    """Leaves those of a transformers model's layers that are kept, in place, and has its configuration say so: it runs
    and is saved like any other. A layer knows its number, by which it finds its keys and values in a cache."""
    from torch import nn

    if (kinds := getattr(model.config, "layer_types", None)) is not None:
        model.config.layer_types = [kinds[i] for i in kept]
    model.config.num_hidden_layers = len(kept)
    decoder(model).layers = nn.ModuleList(layers[i] for i in kept)
    for number, layer in enumerate(decoder(model).layers):
        layer.self_attn.layer_idx = number


TECHNIQUES = (
    Technique(
        "depth-pruned",
        "Depth Pruning",
        32,
        partial(build, "depth-pruned", prune_once),
        optimises="compiled",
        batches=False,
        engines=("compiled",),
        calibrates=True,
    ),
)
