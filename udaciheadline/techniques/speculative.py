"""Speculative decoding: a small model drafts, the large one checks several tokens in one pass; and the target alone.

Leviathan et al. 2022 (https://arxiv.org/abs/2211.17192). Reading the large model's weights costs the same for one
token or for a handful, so the draft's next `DRAFT_TOKENS` tokens are run through the target together. Greedy decoding
keeps them up to the first one that the target itself would not have written, and adds the target's own token there:
the headlines are the target's, exactly (in float32; in low precision a pass over several tokens rounds differently
from a pass over one, and a near tie can fall the other way).

With acceptance rate a per token and k draft tokens, one target pass yields (1 - a^(k+1)) / (1 - a) tokens on average,
for k draft passes. It is faster where the draft is much cheaper than the target and agrees with it: a tenth of the
cost and most tokens accepted. It is slower where passes cost the same whatever the model's size, as on a launch-bound
GPU, or where draft and target are close in depth, as the embedded two are.

The honest comparison is the target alone, with the same prompt, length and extraction: the `target` row.
"""

from udaciheadline.engines import ENGINES, build_engine
from udaciheadline.records import Engine, EngineSpec, UsageError
from udaciheadline.techniques._technique import Technique

DRAFT_TOKENS = 5


def build_target(spec: EngineSpec) -> Engine:
    """The target model alone, with the KV cache."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    assert spec.target is not None  # Technique.unavailable has seen to it
    model = load_model(spec.target, device=spec.device, dtype=spec.dtype)
    return build_engine(spec, model, load_tokenizer(spec.target))


def build_speculative(spec: EngineSpec) -> Engine:
    """`generate(assistant_model=draft)` on the target. Raises UsageError where the two do not share a vocabulary."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer
    from udaciheadline.engines.transformers import TransformersEngine

    assert spec.target is not None
    tokenizer = load_tokenizer(spec.target)
    if load_tokenizer(spec.draft).get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"--draft {spec.draft}: its vocabulary is not that of --target {spec.target}: give models of one family"
        )
    target = load_model(spec.target, device=spec.device, dtype=spec.dtype)
    draft = load_model(spec.draft, device=spec.device, dtype=spec.dtype)
    return TransformersEngine(
        target, tokenizer, max_new_tokens=spec.max_new_tokens, stop=spec.stop, draft=draft, draft_tokens=DRAFT_TOKENS
    )


TECHNIQUES = (
    Technique("target", "Target model", 80, build_target, needs_target=True, engines=ENGINES),
    Technique(
        "speculative",
        "Speculative Decoding",
        90,
        build_speculative,
        exact_to="target",
        needs_target=True,
        batches=False,
    ),
)
