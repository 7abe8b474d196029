"""Which models the compiled engine runs: those that are Llamas here, as they were published (see `llama.py`)."""

from typing import Any

from udaciheadline.records import Unsupported

FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
"""The models that are Llamas here: `model_type` in a configuration, and what people call it."""

MAX_LENGTH = 4096  # of a text in tokens, prompt and headline together


def check(config: Any) -> None:
    """Raises Unsupported for the configuration of a model that is none of the FAMILIES as they were published."""
    if config.model_type not in FAMILIES:
        *others, last = FAMILIES.values()
        raise Unsupported(
            f"it is a {config.model_type} model, and the compiled engine runs {', '.join(others)} and {last}"
        )
    for name, expected in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if (value := getattr(config, name, expected)) != expected:
            raise Unsupported(f"its {name} is {value!r}, and the compiled engine runs models with {expected!r}")
    window = getattr(config, "sliding_window", None)  # None where a Qwen has one that it does not use
    if window is not None and window < MAX_LENGTH:
        raise Unsupported(
            f"its tokens read only the last {window} tokens (sliding_window), and the compiled engine reads texts of "
            f"up to {MAX_LENGTH} whole"
        )
