"""Weights of 4 bits chosen on texts: what each layer makes of them stays nearest to what it made of them before.

Rounding every weight to its nearest code keeps the weights near, which is not what matters: inputs are correlated, so
what one weight loses others can make up for. GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323) rounds a
matrix column by column and adds the error of each to the columns that are still to come, as the second moments of the
layer's inputs say it is made up for best. Columns whose inputs are largest come first, since those that come last have
nobody left to make up for them.

Layers are calibrated in their order, each on what those before it, in 4 bits already, make of the texts: it makes up
for their errors, too. The texts are read once, each projection being calibrated when they get there, and no more than
one's moments are in memory. Nothing is added to what the model computes: a step is no slower than with weights that
were rounded to their nearest codes.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from udaciheadline.engines.compiled.families import check
from udaciheadline.engines.compiled.weights import group
from udaciheadline.engines.texts import padded

CODES = (-8, 7)
BLOCK = 128  # columns whose errors reach the columns behind them in one product
DAMPING = 0.05  # of the mean second moment, on the diagonal: a hundred short texts are few beside the columns
STEPS = (7.0, 7.5, 8.0, 8.5, 9.0, 10.0, 11.0)  # from zero to a group's largest weight, that are tried: over 8 cuts it
SMALL = 1e-12  # of what must not be zero: a float32 far above the least

_rounded = torch.fake_quantize_per_channel_affine  # to codes and back, in one operation


@torch.no_grad()
def calibrate(model: Any, texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Rounds the layers' matrices of a transformers Llama, or another of `families.FAMILIES`, to 4 bits, in place, by
    what it makes of these texts in tokens.

    Each projection's `weight` (o, i) then lies on its `scales` (o, i / group), which stand beside it, as
    `weights.taken_over` expects; embedding and head stay. Returns the seconds that it took and the number of tokens.
    Raises Unsupported for a model of another family, or with matrices that do not divide into groups.
    """
    check(model.config)
    start = time.perf_counter()
    tokens = padded(list(map(list, texts)), pad=0).to(model.device)
    read = padded([[1] * len(text) for text in texts], pad=0).bool().to(model.device)
    hooks = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        alike = (  # projections of the same input, in the order in which they read it
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
        hooks += [group[0].register_forward_pre_hook(partial(_calibrate, group, read)) for group in alike]
    try:
        model.model(tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {"calibration_seconds": time.perf_counter() - start, "calibration_tokens": float(read.sum())}


def _calibrate(projections: Sequence[Any], read: Tensor, _: Any, inputs: tuple[Tensor]) -> None:
    """Rounds the weights of projections before the first of them reads these inputs (b, t, i), of which those that are
    `read` (b, t) count: the others fill up."""
    x = inputs[0][read].float()  # (m, i)
    weight = torch.cat([projection.weight for projection in projections])
    rounded, scales = gptq(weight, x.T @ x)
    sizes = [len(projection.weight) for projection in projections]
    for projection, own, its in zip(projections, rounded.split(sizes), scales.split(sizes), strict=True):
        projection.weight.copy_(own)
        projection.scales = its


def gptq(weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """The weight (o, i) rounded to 4 bits, and its scales (o, i / group), for inputs of these second moments (i, i)."""
    size = group(weight.shape[1])
    moments = moments.clone()
    moments.diagonal().add_((DAMPING * moments.diagonal().mean()).clamp(min=SMALL))
    scales = best_scales(weight, moments.diagonal(), size).to(weight.dtype)
    order = moments.diagonal().argsort(descending=True, stable=True)
    spread = spreading(moments[order][:, order])
    left = weight.T[order].float()  # (i, o): a row is a column of the weight, as what came before it has left it
    steps = scales.float().T.repeat_interleave(size, 0)[order]
    zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    for start in range(0, len(left), BLOCK):
        block, behind = slice(start, start + BLOCK), slice(start + BLOCK, None)
        rows, own = left[block], spread[block, block]
        errors = torch.empty_like(rows)
        for j, row in enumerate(rows):  # few and small operations: on a GPU the time is that of launching them
            torch.sub(row, _rounded(row, steps[start + j], zeros, 0, *CODES), out=errors[j])
            rows[j + 1 :].addr_(own[j, j + 1 :], errors[j], alpha=-1)
        left[behind].addmm_(spread[block, behind].T, errors, alpha=-1)
    rounded = (left / steps).round_().clamp_(*CODES).mul_(steps)
    return rounded[order.argsort()].T.to(weight.dtype), scales


def spreading(moments: Tensor) -> Tensor:
    """How far an error of each column j is made up for by each one k behind it, those before j being fixed: (i, i),
    upper triangular with ones on the diagonal.

    It is U over its diagonal where UᵀU are the inverted moments. Of Cholesky's L of the moments in reverse order comes
    U without inverting them: moments = RRᵀ, R being L in reverse order, and U = R⁻¹.
    """
    reverse = torch.linalg.cholesky(moments.flip(0, 1)).flip(0, 1)
    upper = torch.linalg.solve_triangular(reverse, torch.eye(len(moments), device=moments.device), upper=True)
    return upper / upper.diagonal()[:, None]


def best_scales(weight: Tensor, importance: Tensor, size: int) -> Tensor:
    """The scales (o, i / size) that round a weight (o, i) with the least squared error, a column counting as much as
    its `importance` (i).

    There is one more code below zero than above: a scale may be negative, so that the larger end of a group gets it.
    """
    groups = weight.float().view(len(weight), -1, size)
    largest = groups.abs().amax(2).clamp(min=100 * torch.finfo(weight.dtype).tiny)  # no scale may be zero
    least = torch.full_like(largest, torch.inf)
    scales = largest
    for steps in (*STEPS, *(-steps for steps in STEPS)):
        tried = (largest / steps)[..., None]
        errors = (groups / tried).round_().clamp_(*CODES).mul_(tried).sub_(groups).square_()
        error = (errors * importance.view(-1, size)).sum(2)
        scales = torch.where(error < least, tried[..., 0], scales)
        least = torch.minimum(error, least)
    return scales
