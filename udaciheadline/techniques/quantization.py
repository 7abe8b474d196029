"""Weights in 8 or 4 bits, with bitsandbytes.

At batch 1 every weight is read once a token, so a decode step that is bound by memory bandwidth gets faster in
proportion to the bytes removed, if the kernel unpacks them on the way. That *if* is the catch:

* **int8** (LLM.int8, Dettmers et al. 2022, https://arxiv.org/abs/2208.07339): activations are quantised row by row,
  multiplied as int8, rescaled, and the columns with outliers are multiplied apart in full precision. Several kernels
  and a device synchronisation replace one matrix product: less memory, more time. It suits a model that would not
  fit otherwise.
* **fp4**, **nf4** (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314): blocks of 64 weights share a scale;
  each weight is a 4-bit code, a small float for fp4 (what the notebook's `load_in_4bit=True` means), or a quantile of
  the normal distribution for nf4, which fits trained weights better at the same size. They are unpacked to the compute
  dtype for the product, so arithmetic is not saved, only memory.

The linear layers are quantised, embeddings and head are not: a model that is mostly vocabulary shrinks less. Of some
families bitsandbytes knows no layer, and its kernels do not take every shape: such a model is not for these rows.
"""

from functools import partial
from typing import Any

from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec, Unsupported
from udaciheadline.techniques._technique import Technique


def bitsandbytes_config(kind: str, dtype: str) -> Any:
    """The transformers config for "int8", "fp4" or "nf4", computing in the torch dtype named `dtype`."""
    import torch
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=getattr(torch, dtype))


def build(kind: str, spec: EngineSpec) -> Engine:
    """The KV cache row with the linear layers' weights quantised while they are loaded. Raises Unsupported for a model
    of which nothing was quantised, or that does not run so."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    from udaciheadline.checkpoints.models import load_model, load_tokenizer
    from udaciheadline.engines.device import is_out_of_memory
    from udaciheadline.engines.transformers import TransformersEngine

    quantization = bitsandbytes_config(kind, spec.dtype)
    model = load_model(spec.model, device=spec.device, dtype=spec.dtype, quantization=quantization)
    if not any(isinstance(module, Linear4bit | Linear8bitLt) for module in model.modules()):
        raise Unsupported(f"bitsandbytes knows no layer of a {model.config.model_type} model, and quantises nothing")
    engine = TransformersEngine(model, load_tokenizer(spec.model), max_new_tokens=spec.max_new_tokens, stop=spec.stop)
    try:
        engine.texts.likelihood(["One pass tells whether it runs."], ["It does"])
    except (RuntimeError, AssertionError) as error:  # what its kernels do not take is written down nowhere
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unsupported(
            f"bitsandbytes cannot run this {model.config.model_type} model on the {spec.device} ({reason})"
        ) from error
    return engine


_EIGHT_BITS = "quantization_config=BitsAndBytesConfig(load_in_8bit=True)"
_FOUR_BITS = (
    "quantization_config=BitsAndBytesConfig("
    'load_in_4bit=True, bnb_4bit_quant_type="KIND", bnb_4bit_compute_dtype="{dtype}")'
)

TECHNIQUES = (
    Technique(
        "int8",
        "Quantised 8bit",
        40,
        partial(build, "int8"),
        counterpart="compiled-int8",
        arguments=(_EIGHT_BITS, ""),
    ),
    Technique(
        "fp4",
        "Quantised 4bit",
        50,
        partial(build, "fp4"),
        counterpart="compiled-int4",
        arguments=(_FOUR_BITS.replace("KIND", "fp4"), ""),
    ),
    Technique(
        "nf4",
        "Quantised 4bit (nf4)",
        51,
        partial(build, "nf4"),
        counterpart="compiled-int4",
        arguments=(_FOUR_BITS.replace("KIND", "nf4"), ""),
    ),
)
