"""How a token's position gets into what it reads of those before it: rotary embeddings, in plain PyTorch. A GPU's steps
turn and read in one kernel (`kernels.py`)."""

import math
from typing import Any

import torch
from torch import Tensor

from udaciheadline.records import Unsupported


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + d/2]) by its position's angle: x (m, heads, d), cos and sin (m, 1, d/2).

    Scores then depend on the distance of two tokens alone (RoPE, Su et al. 2021, https://arxiv.org/abs/2104.09864).
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def rotary_frequencies(head_dim: int, parameters: dict[str, Any]) -> Tensor:
    """Radians a position for each of the d/2 pairs, by the `rope_parameters` of a Hugging Face configuration.

    "default" is theta^(-2i/d). "llama3" (Llama 3.1) slows low frequencies down by `factor`, so that a longer text
    turns them no further than the text of pre-training did, keeps high ones, and blends in between. Raises Unsupported
    for another type.
    """
    frequencies = parameters["rope_theta"] ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return frequencies
    if kind != "llama3":
        raise Unsupported(
            f"its rotary embeddings are of type {kind!r}, and the compiled engine knows default and llama3"
        )
    turns = parameters["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in a text of pre-training
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / parameters["factor"])
