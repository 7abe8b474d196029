"""Magnitude pruning, unstructured: the smallest weights become zero.

Han et al. 2015 (https://arxiv.org/abs/1506.02626): weights of small magnitude matter least. As in the notebook, the
half of the MLP weights (gate, up and down projections) of the first quarter of the layers that is smallest in absolute
value, ranked over all of them together, is set to zero.

Why it is *not* faster: a zero is stored and multiplied like any other number. Dense kernels skip nothing, so time and
memory stay what they were, and the headlines get worse. Zeros pay only in a form that a kernel can skip: whole
channels, heads or layers removed, or the 2:4 pattern of NVIDIA's sparse tensor cores at large batches. The row is here
because people try it, and to show that an honest measurement finds nothing.
"""

from typing import TYPE_CHECKING

from udaciheadline.engines import ENGINES, build_engine
from udaciheadline.records import Engine, EngineSpec
from udaciheadline.techniques._technique import Technique

if TYPE_CHECKING:
    import torch

AMOUNT = 0.5
LAYER_SHARE = 4  # the first 1/4 of the layers: 4 of Llama-3.2-1B's 16


def prune_magnitude(model: "torch.nn.Module", amount: float = AMOUNT) -> dict[str, float]:
    """Sets the smallest `amount` of the MLP weights of the first quarter of the layers to zero, in place.

    `model` is a transformers Llama (or a model with its names). The masks are made permanent at once: kept beside the
    weights, as the notebook left them, they would double the memory. Returns the sparsity that came out, of the pruned
    matrices and of the whole model.
    """
    import torch
    from torch.nn.utils import prune

    layers = model.model.layers  # type: ignore[union-attr]
    first = layers[: max(1, len(layers) // LAYER_SHARE)]  # type: ignore[index, arg-type]
    projections = [p for layer in first for p in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)]
    parameters = [(projection, "weight") for projection in projections]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=amount)
    for projection, name in parameters:
        prune.remove(projection, name)
    zeros = sum(int(torch.count_nonzero(p.weight == 0)) for p in projections)
    total = sum(p.numel() for p in model.parameters())
    return {
        "sparsity": zeros / sum(p.weight.numel() for p in projections),
        "model_sparsity": sum(int(torch.count_nonzero(p == 0)) for p in model.parameters()) / total,
    }


def build(spec: EngineSpec) -> Engine:
    """The main model with pruned weights."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    model = load_model(spec.model, device=spec.device, dtype=spec.dtype)
    details = prune_magnitude(model)
    return build_engine(spec, model, load_tokenizer(spec.model), details)


TECHNIQUES = (Technique("pruned", "Magnitude Unstructured Pruning", 30, build, engines=ENGINES),)
