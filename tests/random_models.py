"""Small models with random weights, of every family that the compiled engine runs."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
}
FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def small(kind: Any = LlamaConfig, **changes: Any) -> Any:
    """The configuration of a Llama, or one of another kind, of a few thousand weights."""
    return kind(**SIZES | {"head_dim": 16} | changes)


def random_model(config: Any) -> Any:
    """A model whose norms and biases are random too: transformers makes them all ones or zeros, which any mistake with
    them would pass."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, float("norm" in name), 0.3)
    return model


def of_family(family: str, **changes: Any) -> Any:
    """One whose weights are large enough for every part to count in the logits."""
    return random_model(small(FAMILIES[family], initializer_range=0.2, **changes))
