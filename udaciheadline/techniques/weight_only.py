"""Weights in 16, 8 or 4 bits on the compiled engine: a product reads a half, a quarter or an eighth of float32's bytes.

Weight-only quantisation: what is multiplied with the weights stays in full precision, so nothing is quantised while a
headline is written. A code is unpacked in the registers of the very program that multiplies it
(`engines/compiled/weights.py` has the formats), so that at batch 1, where a token takes as long as reading the weights,
bytes saved are time saved.

What it costs, in nats a token of true headlines (SmolLM2 on real articles; `docs/performance.md` has the tables): int8
.00 to .01, with nearest codes. Those of fp8 cost .03 to .05 (.06 to .07 with the head in fp8, too), of 4 bits .4 to .7,
too much to deploy; so both are chosen by GPTQ on articles that are not measured (`engines/compiled/calibration.py`),
and the head is int8: then fp8 costs .01, and 4 bits cost .13 to .14, a third of bitsandbytes' nf4 (.4), but more than
the .1 of its gate. Where a GPU multiplies fp8 as it is (16 rows and more: prompts and jobs) x is fp8, too, which
nothing makes up for: .03 to .05 in a job, and for one headline at a time, which meets it in its prompt only and is
judged so, .01 (computed on a CPU) to .02 ±.01 (a session on an H200). The embedded models lose .01 and less. The first
process that starts calibrates, for all (`kept.py`).

**On a GPU** (`engines/compiled/words.py`, `mixed.py`) a step of the shape of Llama-3.1-8B on an H100 is 1.59 (int8),
1.61 (fp8) and 2.46 (int4) times as fast as in bfloat16, of Llama-3.2-1B 1.49, 1.48 and 1.97: what does not shrink is
the beginning of each product, and in 4 bits the arithmetic. With 64 rows or more a product in 8 or 4 bits is slower
than the library's in bfloat16, so that int8 and int4 lose in jobs; fp8, multiplied as it is, wins there: jobs were 1.17
to 1.21 (1B) and 1.33 (8B) times as fast, with a head in fp8, too.

**On a CPU** (`engines/compiled/packed.py`, `cpu/`) prompt, step and loop are C++ of our own, since a library's
call costs as much as such a product. SmolLM2 on one thread writes 4.6 (16 bits), 5.7 (8) and 6.9 (4) times as fast as
`generate` in float32. A code has to become a float before it is multiplied, so 4 bits win less over 8 than their
bytes promise: they are bound by arithmetic. In a model that fits into the cache (the embedded one) there is no memory
to wait for, and 16, 8 and 4 bits are nearly equally fast, 1.3 to 1.4 times float32. Several vectors at a
time (prompts, jobs, likelihoods) are rounded to bfloat16 where the CPU multiplies pairs of them (AVX512_BF16), twice
as fast; one vector stays as it is. Jobs are bound by arithmetic, so that their products are as fast as those of
bfloat16 weights, no faster.

**compiled-bf16** is the model in bfloat16 in a session in float32: half of the bytes, without codes and scales. In a
session in bfloat16 that is `compiled`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from udaciheadline.data.articles import CALIBRATION_ARTICLES
from udaciheadline.engines import Engine, build_engine
from udaciheadline.records import Article, EngineSpec, Unsupported
from udaciheadline.techniques import compilation
from udaciheadline.techniques._technique import Technique


def build_bf16(spec: EngineSpec) -> Engine:
    """The compiled engine on the main model in bfloat16. Raises Unsupported in a session that has this precision."""
    if spec.dtype == "bfloat16":
        raise Unsupported("it is the main model in bfloat16, which compiled is in this session")
    return compilation.build_compiled(replace(spec, dtype="bfloat16"))


def build(kind: str, spec: EngineSpec) -> Engine:
    """The compiled engine on the main model with its matrices quantised to `kind`, one of `weights.KINDS`: all but int8
    by what the model makes of articles that are not measured."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    model = load_model(spec.model, device=spec.device, dtype=spec.dtype)
    tokenizer = load_tokenizer(spec.model)
    details = None if kind == "int8" else calibrated(model, tokenizer, spec.calibration, kind)
    return build_engine(replace(spec, engine="compiled"), model, tokenizer, details=details, weights=kind)


def calibrated(model: Any, tokenizer: Any, articles: Sequence[Article], kind: str) -> dict[str, float]:
    """Rounds a transformers model's layers to fp8 or int4, in place, by these articles with their headlines, in the
    notebook's prompt whatever the session's is: the same articles give the same weights. Where there are none, as in a
    job, they are the newswire's. Returns how long it took and how much was read. Raises Unsupported."""
    from udaciheadline.data.newswire import training_articles
    from udaciheadline.data.prompts import completion_for, prompt_for
    from udaciheadline.engines.compiled import calibrate_once

    read = articles or tuple(training_articles(CALIBRATION_ARTICLES))
    texts = [prompt_for(article.short_description) + completion_for(article.headline) for article in read]
    return calibrate_once(model, tokenizer(texts)["input_ids"], kind) | {"calibration_articles": len(read)}


_alone = partial(Technique, optimises="compiled", batches=False, engines=("compiled",))

TECHNIQUES = (
    _alone("compiled-bf16", "Compiled, bf16", 41, build_bf16),
    _alone("compiled-int8", "Compiled, 8bit", 42, partial(build, "int8")),
    _alone("compiled-fp8", "Compiled, fp8", 44, partial(build, "fp8"), needs_cuda=True, calibrates=True),
    _alone("compiled-int4", "Compiled, 4bit", 54, partial(build, "int4"), calibrates=True),
)
