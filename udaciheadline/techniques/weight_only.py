"""Weights in 16, 8 or 4 bits on the compiled engine: a product reads a half, a quarter or an eighth of float32's bytes.

Weight-only quantisation: what is multiplied with the weights stays in full precision, so nothing is quantised while a
headline is written. A code is unpacked in the registers of the very program that multiplies it
(`engines/compiled/weights.py` has the formats), so that at batch 1, where a token takes as long as reading the weights,
bytes saved are time saved.

**On a CPU** (`engines/compiled/packed.py`, `cpu/`) prompt, step and loop are C++ of our own, since a library's
call costs as much as such a product. SmolLM2 on one thread writes 4.6 (16 bits), 5.7 (8) and 6.9 (4) times as fast as
`generate` in float32. A code has to become a float before it is multiplied, so 4 bits win less over 8 than their
bytes promise: they are bound by arithmetic. In a model that fits into the cache (the embedded one) there is no memory
to wait for, and 16, 8 and 4 bits are equally fast, 1.2 to 1.3 times float32 in the same C++. Several vectors at a
time (prompts, jobs, likelihoods) are rounded to bfloat16 where the CPU multiplies pairs of them (AVX512_BF16), twice
as fast; one vector stays as it is. Jobs are bound by arithmetic, so that their products are as fast as those of
bfloat16 weights, no faster.

**compiled-bf16** is the model in bfloat16 in a session in float32: half of the bytes, without codes and scales. In a
session in bfloat16 that is `compiled`.
"""

from dataclasses import replace
from functools import partial

from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec, Unsupported
from udaciheadline.techniques import compilation
from udaciheadline.techniques._technique import Technique


def build_bf16(spec: EngineSpec) -> Engine:
    """The compiled engine on the main model in bfloat16. Raises Unsupported in a session that has this precision."""
    if spec.dtype == "bfloat16":
        raise Unsupported("it is the main model in bfloat16, which compiled is in this session")
    return compilation.build_compiled(replace(spec, dtype="bfloat16"))


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
    Technique("compiled-bf16", "Compiled, bf16", 41, build_bf16, batches=False, engines=("compiled",)),
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
