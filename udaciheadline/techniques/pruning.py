"""Magnitude pruning, unstructured: the smallest weights become zero.

Han et al. 2015 (https://arxiv.org/abs/1506.02626): weights of small magnitude matter least. As in the notebook, the
half of the MLP weights (a Llama's gate, up and down projections) of the first quarter of the layers that is smallest in
absolute value, ranked over all of them together, is set to zero.

Why it is *not* faster: a zero is stored and multiplied like any other number. Dense kernels skip nothing, so time and
memory stay what they were, and the headlines get worse. Zeros pay only in a form that a kernel can skip: whole
channels, heads or layers removed, or the 2:4 pattern of NVIDIA's sparse tensor cores at large batches. The row is here
because people try it, and to show that an honest measurement finds nothing.
"""

import re
from typing import Any

from udaciheadline.engines import ENGINES, Engine, build_engine
from udaciheadline.records import EngineSpec, Unsupported
from udaciheadline.techniques._technique import Technique

AMOUNT = 0.5
LAYER_SHARE = 4  # the first 1/4 of the layers: 4 of Llama-3.2-1B's 16


def mlp_projections(model: Any) -> list[list[Any]]:
    """The projections of each decoder layer of a transformers model that mix channels and not tokens, whatever they are
    called: those of no attention. The decoder is the list of as many modules as the configuration has layers.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's matrix, transposed

    count = model.config.num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return [
        [
            module
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and not re.search("att|mixer", name)
        ]
        for layer in next(lists, ())
    ]


def prune_magnitude(model: Any, amount: float = AMOUNT) -> dict[str, float]:
    """Sets the smallest `amount` of the MLP weights of the first quarter of a transformers model's layers to zero, in
    place.

    The masks are made permanent at once: kept beside the weights, as the notebook left them, they would double the
    memory. Returns the sparsity that came out, of the pruned matrices and of the whole model. Raises Unsupported for a
    model in which there is nothing to prune.
    """
    import torch
    from torch.nn.utils import prune

    layers = mlp_projections(model)
    projections = [p for layer in layers[: max(1, len(layers) // LAYER_SHARE)] for p in layer]
    if not projections:
        raise Unsupported(f"its {model.config.model_type} layers have no MLP of plain matrices to prune")
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
    return build_engine(spec, model, load_tokenizer(spec.model), details=details)


TECHNIQUES = (Technique("pruned", "Magnitude Unstructured Pruning", 30, build, engines=ENGINES),)
