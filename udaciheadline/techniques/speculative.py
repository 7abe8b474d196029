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

from typing import Any

from udaciheadline.engines import ENGINES, Engine, build_engine
from udaciheadline.records import EngineSpec, Unsupported, UsageError
from udaciheadline.techniques._technique import Technique

DRAFT_TOKENS = 5


def fit_vocabulary(draft: Any, target: Any) -> None:
    """Gives a draft as many rows of the vocabulary as the target has, in place.

    Models of one tokenizer often pad their vocabulary to different sizes (Qwen2.5's have 151,936 and 152,064 rows),
    which transformers takes for different tokenizers. What is changed is padding, and of the draft only: the target
    stays what it is, and with it every token that is written. A larger draft loses its last rows. A smaller one gets
    more of them, each the mean of those that it has, so that its logit is the mean of all logits and never the largest.
    """
    rows = target.config.get_text_config().vocab_size
    if draft.config.get_text_config().vocab_size != rows:
        draft.resize_token_embeddings(rows)


def build_target(spec: EngineSpec) -> Engine:
    """The target model alone, with the KV cache."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    assert spec.target is not None  # Technique.unavailable has seen to it
    model = load_model(spec.target, device=spec.device, dtype=spec.dtype)
    return build_engine(spec, model, load_tokenizer(spec.target))


def build_speculative(spec: EngineSpec) -> Engine:
    """`generate(assistant_model=draft)` on the target. Raises UsageError where the two do not share a vocabulary, and
    Unsupported where one of them has no cache to take drafted tokens back from."""
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
    for name, model in (("target", target), ("draft", draft)):
        if model._is_stateful:
            kind = model.config.model_type
            raise Unsupported(f"its {name} is a {kind} model, whose state cannot take back drafted tokens")
    fit_vocabulary(draft, target)
    return TransformersEngine(
        target, tokenizer, max_new_tokens=spec.max_new_tokens, stop=spec.stop, draft=draft, draft_tokens=DRAFT_TOKENS
    )


TECHNIQUES = (
    Technique(
        "target",
        "Target model",
        80,
        build_target,
        counterpart="compiled-target",
        needs_target=True,
        engines=ENGINES,
    ),
    Technique(
        "speculative",
        "Speculative Decoding",
        90,
        build_speculative,
        exact_to="target",
        optimises="target",
        counterpart="compiled-speculative",
        needs_target=True,
        batches=False,
    ),
)
