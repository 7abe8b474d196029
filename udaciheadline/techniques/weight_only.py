"""Weights in 8 or 4 bits on the compiled engine: a product reads a half or a quarter of the bytes.

Weight-only quantisation: what is multiplied with the weights stays in full precision, so nothing is quantised while a
headline is written. A code is unpacked in the registers of the very program that multiplies it
(`engines/compiled/weights.py` has the formats), so that at batch 1, where a token takes as long as reading the weights,
bytes saved are time saved.
"""

from functools import partial

from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec
from udaciheadline.techniques._technique import Technique


def build(kind: str, spec: EngineSpec) -> Engine:
    """The compiled engine on the main model with its matrices quantised to `kind`, one of `weights.KINDS`."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer
    from udaciheadline.engines.compiled import CompiledEngine

    model = load_model(spec.model, device=spec.device, dtype=spec.dtype)
    tokenizer = load_tokenizer(spec.model)
    return CompiledEngine(
        model, tokenizer, max_new_tokens=spec.max_new_tokens, stop=spec.stop, alone=True, weights=kind
    )


TECHNIQUES = (
    Technique("compiled-int8", "Compiled, 8bit", 42, partial(build, "int8"), batches=False, engines=("compiled",)),
    Technique(
        "compiled-fp8",
        "Compiled, fp8",
        44,
        partial(build, "fp8"),
        needs_cuda=True,
        batches=False,
        engines=("compiled",),
    ),
    Technique("compiled-int4", "Compiled, 4bit", 54, partial(build, "int4"), batches=False, engines=("compiled",)),
)
