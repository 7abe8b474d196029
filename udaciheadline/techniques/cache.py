"""No KV cache and KV cache: whether the past is computed again for every token.

Causal attention at position t reads the keys and values of positions 0..t, and those never change once computed.
Without a cache, each new token runs the whole sequence through the model: n new tokens after a prompt of p cost
p + (p+1) + ... + (p+n-1) token passes. With the cache it is p + n - 1: the prompt once, then one token at a time.

When it helps: nearly always. It costs memory, 2 x layers x KV heads x head_dim values a token (32 KiB a token in bf16
for Llama-3.2-1B). At batch 1 on a large GPU the saved arithmetic was idle capacity anyway, so `generate`, which is
bound by kernel launches there, shows no gain for short headlines; on a CPU, or for long or batched sequences, it does.

The notebook's "Baseline" is the run without the cache. The cache is the reference of all other rows, because nobody
deploys without it.
"""

from dataclasses import replace

from udaciheadline.engines import Engine, build_engine
from udaciheadline.records import EngineSpec
from udaciheadline.techniques._technique import REFERENCE, Technique


def build_baseline(spec: EngineSpec) -> Engine:
    """`generate(use_cache=False)`."""
    return build(spec, use_cache=False)


def build_kv_cache(spec: EngineSpec) -> Engine:
    """`generate(use_cache=True)` with transformers' default, growing cache."""
    return build(spec)


def build(spec: EngineSpec, *, use_cache: bool = True, static_cache: bool = False) -> Engine:
    """The main model on transformers, with these options of the engine."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    model = load_model(spec.model, device=spec.device, dtype=spec.dtype)
    options = {"use_cache": use_cache, "static_cache": static_cache}
    return build_engine(replace(spec, engine="transformers"), model, load_tokenizer(spec.model), **options)


TECHNIQUES = (
    Technique("baseline", "Baseline", 10, build_baseline, exact_to=REFERENCE),
    Technique("kv-cache", "KV Caching", 20, build_kv_cache, exact_to=REFERENCE, arguments=("", "use_cache=True")),
)
