"""Width pruning: MLP channels that do little are removed, the same number from every layer.

A Llama's MLP is a sum over its channels: each reads the hidden state with a row of the gate and of the up projection,
and writes to it with a column of the down projection. A channel whose activation is small writes little, and is
removed: three smaller matrices are left, in which nothing is zero, so every kernel is faster on them (Minitron,
Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679, which ranks channels by their activations, too). As in Wanda
(Sun et al. 2023, https://arxiv.org/abs/2306.11695) an activation counts times the weights that it meets, here the norm
of its column: a channel is worth the same however its scale is divided between the projections.

A pass reads fewer bytes and multiplies less, at any batch size, on any device; attention, and its cache, stay as they
were. The embedded model writes a token 1.27 ±.01 times as fast as unpruned. It pays only healed (`python -m
udaciheadline.train --prune width --teacher`): pruning alone costs the embedded model, whose channels are few and busy,
1.9 nats a token, of which 96,000 articles of distillation leave .02; SmolLM2 loses 1.2 (docs/performance.md). Against
depth pruning it removes the same from every layer: nothing is lost whole, but there are as many operations as before,
and where their number is the time it wins less.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from udaciheadline.records import Unsupported
from udaciheadline.techniques._removal import SHARE, Loss, build, decoder, prune_with
from udaciheadline.techniques._technique import Technique

if TYPE_CHECKING:
    from torch import Tensor

MULTIPLE = 64
"""Of which the channels that are left are a multiple: tiles of the kernels, ours and cuBLAS's, are."""


def prune_width(model: Any, loss: Loss, share: float = SHARE) -> dict[str, float]:
    """Removes the least important MLP channels of each layer of a transformers model, in place: so many that they are
    `share` of the layers' weights, or a few more, to leave a multiple of MULTIPLE.

    Activations are those while the `loss` is computed. Returns how many channels a layer has left, and what their
    removal cost in nats a token. Raises Unsupported for a model of another family, or one whose MLPs are too small.
    """
    layers = decoder(model).layers
    width = model.config.intermediate_size
    of_a_layer = sum(parameter.numel() for parameter in layers[0].parameters())
    of_a_channel = 3 * layers[0].mlp.down_proj.out_features
    left = int((width - share * of_a_layer / of_a_channel) // MULTIPLE) * MULTIPLE
    if left <= 0:
        raise Unsupported(f"its {width} MLP channels a layer are too few to remove {share:.0%} of its layers' weights")
    whole, importances = channel_importance(layers, loss)
    for layer, importance in zip(layers, importances, strict=True):
        keep_channels(layer.mlp, importance.topk(left).indices.sort().values)
    model.config.intermediate_size = left
    return {"channels_left": left, "pruning_nats": loss() - whole}


def channel_importance(layers: Any, loss: Loss) -> "tuple[float, list[Tensor]]":
    """The `loss`, and how much each MLP channel (f) of each layer writes: the summed magnitude of its activation over
    the tokens that are read for it, times the norm of its column of the down projection."""
    import torch

    sums = [torch.zeros(layer.mlp.down_proj.in_features, device=layer.mlp.down_proj.weight.device) for layer in layers]

    def see(index: int, _: Any, inputs: "tuple[Tensor]") -> None:
        sums[index] += inputs[0].detach().float().abs().flatten(0, -2).sum(0)

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(partial(see, i)) for i, layer in enumerate(layers)]
    try:
        whole = loss()
    finally:
        for hook in hooks:
            hook.remove()
    return whole, [
        seen * layer.mlp.down_proj.weight.float().norm(dim=0) for seen, layer in zip(sums, layers, strict=True)
    ]


def keep_channels(mlp: Any, kept: "Tensor") -> None:
    """Leaves these channels of a gated MLP, in place."""
    from torch import nn

    for projection, dim in ((mlp.gate_proj, 0), (mlp.up_proj, 0), (mlp.down_proj, 1)):
        projection.weight = nn.Parameter(projection.weight.detach().index_select(dim, kept))
        projection.out_features, projection.in_features = projection.weight.shape
    mlp.intermediate_size = len(kept)


TECHNIQUES = (
    Technique(
        "width-pruned",
        "Width Pruning",
        34,
        partial(build, "width-pruned", partial(prune_with, prune_width)),
        optimises="compiled",
        batches=False,
        engines=("compiled",),
        calibrates=True,
    ),
)
