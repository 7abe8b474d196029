"""Weights of few bits chosen on texts: what each layer makes of them stays nearest to what it made of them before.

Rounding every weight to its nearest code keeps the weights near, which is not what matters: inputs are correlated, so
what one weight loses others can make up for. GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323) rounds a
matrix column by column and adds the error of each to the columns that are still to come, as the second moments of the
layer's inputs say it is made up for best. Columns whose inputs are largest come first, since those that come last have
nobody left to make up for them.

The grid need not be even. Codes of fp8 have three bits of mantissa: a step is a sixteenth to an eighth of the weight,
wherever in their range a row's scale puts it, so that of scales only those within a doubling differ, and little.

Layers are calibrated in their order, each on what those before it, in few bits already, make of the texts: it makes up
for their errors, too. The texts are read once, each projection being calibrated when they get there, and no more than
one's moments are in memory. Nothing is added to what the model computes: a step is no slower than with weights that
were rounded to their nearest codes.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from udaciheadline.engines.compiled.families import check
from udaciheadline.engines.compiled.weights import RANGE, group, to_codes
from udaciheadline.engines.texts import padded

BLOCK = 128  # columns whose errors reach the columns behind them in one product
DAMPING = 0.05  # of the mean second moment, on the diagonal: a hundred short texts are few beside the columns
CUTTING = (7.0, 7.5, 8.0, 8.5, 9.0, 10.0, 11.0)  # beyond 8 a group's largest weight is cut
STEPS = {  # from zero to the largest weight that shares a scale, that are tried
    "int4": (*CUTTING, *(-steps for steps in CUTTING)),
    "fp8": tuple(448.0 / 2 ** (k / 8) for k in range(8)),  # after a doubling the codes are the same again
}
SMALL = 1e-12  # of what must not be zero: a float32 far above the least


@torch.no_grad()
def calibrate(model: Any, texts: Sequence[Sequence[int]], kind: str) -> dict[str, float]:
    """Rounds the layers' matrices of a transformers Llama, or another of `families.FAMILIES`, to fp8 or int4, in place,
    by what it makes of these texts in tokens.

    Each projection's `weight` (o, i) then lies on its `scales` (o, groups), which stand beside it, as
    `weights.taken_over` expects; embedding and head stay. Returns the seconds that it took and the number of tokens.
    Raises Unsupported for a model of another family, or for int4 with matrices that do not divide into groups.
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
        hooks += [group[0].register_forward_pre_hook(partial(_calibrate, group, read, kind)) for group in alike]
    try:
        model.model(tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {"calibration_seconds": time.perf_counter() - start, "calibration_tokens": float(read.sum())}


def _calibrate(projections: Sequence[Any], read: Tensor, kind: str, _: Any, inputs: tuple[Tensor]) -> None:
    """Rounds the weights of projections before the first of them reads these inputs (b, t, i), of which those that are
    `read` (b, t) count: the others fill up."""
    x = inputs[0][read].float()  # (m, i)
    weight = torch.cat([projection.weight for projection in projections])
    rounded, scales = gptq(weight, x.T @ x, kind)
    sizes = [len(projection.weight) for projection in projections]
    for projection, own, its in zip(projections, rounded.split(sizes), scales.split(sizes), strict=True):
        projection.weight.copy_(own)
        projection.scales = its


def gptq(weight: Tensor, moments: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The weight (o, i) rounded to fp8 or int4, and its scales (o, groups), for inputs of these second moments (i, i).

    Those of int4 are in the weight's type, in which they will be multiplied with.
    """
    moments = moments.clone()
    moments.diagonal().add_((DAMPING * moments.diagonal().mean()).clamp(min=SMALL))
    size = group(weight.shape[1]) if kind == "int4" else weight.shape[1]
    scales = best_scales(weight, moments.diagonal(), size, kind)
    scales = scales.to(weight.dtype) if kind == "int4" else scales
    order = moments.diagonal().argsort(descending=True, stable=True)
    spread = spreading(moments[order][:, order])
    left = weight.T[order].float()  # (i, o): a row is a column of the weight, as what came before it has left it
    steps = scales.float().T.repeat_interleave(size, 0)[order]
    rounded = _rounding(kind, steps[0])
    for start in range(0, len(left), BLOCK):
        block, behind = slice(start, start + BLOCK), slice(start + BLOCK, None)
        rows, own = left[block], spread[block, block]
        errors = torch.empty_like(rows)
        for j, row in enumerate(rows):  # few and small operations: on a GPU the time is that of launching them
            torch.sub(row, rounded(row, steps[start + j]), out=errors[j])
            rows[j + 1 :].addr_(own[j, j + 1 :], errors[j], alpha=-1)
        left[behind].addmm_(spread[block, behind].T, errors, alpha=-1)
    return nearest(left, steps, kind)[order.argsort()].T.to(weight.dtype), scales


def _rounding(kind: str, like: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """What rounds a column like this one to its steps: for int4, in one operation."""
    if kind != "int4":
        return lambda row, steps: nearest(row, steps, kind)
    zeros, (low, high) = torch.zeros_like(like, dtype=torch.int32), map(int, RANGE[kind])
    return lambda row, steps: torch.fake_quantize_per_channel_affine(row, steps, zeros, 0, low, high)


def nearest(numbers: Tensor, steps: Tensor, kind: str) -> Tensor:
    """Numbers rounded to the nearest codes, times these steps: float32."""
    return to_codes(numbers / steps, kind).float().mul_(steps)


def spreading(moments: Tensor) -> Tensor:
    """How far an error of each column j is made up for by each one k behind it, those before j being fixed: (i, i),
    upper triangular with ones on the diagonal.

    It is U over its diagonal where UᵀU are the inverted moments. Of Cholesky's L of the moments in reverse order comes
    U without inverting them: moments = RRᵀ, R being L in reverse order, and U = R⁻¹.
    """
    reverse = torch.linalg.cholesky(moments.flip(0, 1)).flip(0, 1)
    upper = torch.linalg.solve_triangular(reverse, torch.eye(len(moments), device=moments.device), upper=True)
    return upper / upper.diagonal()[:, None]


def best_scales(weight: Tensor, importance: Tensor, size: int, kind: str) -> Tensor:
    """The scales (o, i / size) that round a weight (o, i) with the least squared error, a column counting as much as
    its `importance` (i).

    int4 has one more code below zero than above: a scale may be negative, so that the larger end of a group gets it.
    """
    groups = weight.float().view(len(weight), -1, size)
    least = max(STEPS[kind]) * torch.finfo(weight.dtype).tiny  # no scale may be zero
    largest = groups.abs().amax(2).clamp(min=least)
    lowest = torch.full_like(largest, torch.inf)
    scales = largest
    for steps in STEPS[kind]:
        tried = (largest / steps)[..., None]
        errors = nearest(groups, tried, kind).sub_(groups).square_()
        error = (errors * importance.view(-1, size)).sum(2)
        scales = torch.where(error < lowest, tried[..., 0], scales)
        lowest = torch.minimum(error, lowest)
    return scales
