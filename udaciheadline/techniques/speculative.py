"""Speculative decoding: a small model drafts, the large one checks several tokens in one pass; and the target alone.

Leviathan et al. 2022 (https://arxiv.org/abs/2211.17192). Reading the large model's weights costs the same for one
token or for a handful, so the draft's next tokens are run through the target together. Greedy decoding
keeps them up to the first one that the target itself would not have written, and adds the target's own token there:
the headlines are the target's, exactly (in float32; in low precision a pass over several tokens rounds differently
from a pass over one, and a near tie can fall the other way).

* **speculative**: transformers' `assistant_model`, `DRAFT_TOKENS` at a time.
* **compiled-speculative**: the same on the compiled engine (`engines/compiled/speculation.py`). On a GPU draft, check
  and comparison are one graph. The number of tokens is chosen when the engine is built, by what they cost there and how
  many of them are right on some headlines; where steps are as fast as the best number, it is none. What that predicts
  stands beside what is measured, in `--details`.

With acceptance rate a per token and k draft tokens, one target pass yields (1 - a^(k+1)) / (1 - a) tokens on average,
for k draft passes. It is faster where the draft is much cheaper than the target and agrees with it: a tenth of the
cost and most tokens accepted. It is slower where passes cost the same whatever the model's size, as on a launch-bound
GPU, or where draft and target are close in depth, as the embedded two are.

On an H100, Llama-3.1-8B's shape drafted for by Llama-3.2-1B's, both in bfloat16, writes 2.0 times as fast as alone on
the compiled engine, 7 tokens at a time, three of four accepted. The embedded pair would be .7 times as fast as its
target on H100 and H200, so nothing is drafted there. On a CPU it has not paid for the embedded pair: for few tokens at
a time there is no program that reads the weights as fast as a step's does (docs/performance.md).

The honest comparison is the target alone, with the same prompt, length and extraction: `target`, and `compiled-target`
on the compiled engine.
"""

from dataclasses import replace
from typing import Any

from udaciheadline.data import newswire
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines import ENGINES, Engine, build_engine
from udaciheadline.records import EngineSpec, Unsupported, UsageError
from udaciheadline.techniques._technique import Technique

DRAFT_TOKENS = 5  # on transformers: the compiled engine chooses their number
DRAFT_WEIGHTS = {"cuda": "int8"}  # on the compiled engine: a draft need not be exact, and fewer bytes are less time
SAMPLES = 16  # headlines that it writes to choose it
SAMPLES_SEED = 1  # of articles that the embedded models were not trained on


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
    target, draft, tokenizer = _pair(spec)
    for name, model in (("target", target), ("draft", draft)):
        if model._is_stateful:
            kind = model.config.model_type
            raise Unsupported(f"its {name} is a {kind} model, whose state cannot take back drafted tokens")
    drafting = {"draft": draft, "draft_tokens": DRAFT_TOKENS}
    return build_engine(replace(spec, engine="transformers"), target, tokenizer, **drafting)


def build_compiled_target(spec: EngineSpec) -> Engine:
    """The target model alone on the compiled engine."""
    return build_target(replace(spec, engine="compiled"))


def build_compiled_speculative(spec: EngineSpec) -> Engine:
    """The compiled engine on the target, with the draft model at its side. Raises as `build_speculative`."""
    from udaciheadline.engines.compiled import check
    from udaciheadline.engines.compiled.drafts import ModelDrafts

    target, draft, tokenizer = _pair(spec)
    check(draft.config)
    drafting = {"drafter": ModelDrafts(draft, DRAFT_WEIGHTS.get(spec.device)), "samples": samples()}
    return build_engine(replace(spec, engine="compiled"), target, tokenizer, **drafting)


def samples() -> list[str]:
    """Prompts on which it is counted how many drafted tokens are accepted: of articles that are in no evaluation."""
    return [prompt_for(article.short_description) for article in newswire.training_articles(SAMPLES, SAMPLES_SEED)]


def _pair(spec: EngineSpec) -> tuple[Any, Any, Any]:
    """Target, draft with as large a vocabulary, and their tokenizer."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    assert spec.target is not None
    tokenizer = load_tokenizer(spec.target)
    if load_tokenizer(spec.draft).get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"--draft {spec.draft}: its vocabulary is not that of --target {spec.target}: give models of one family"
        )
    target, draft = (load_model(name, device=spec.device, dtype=spec.dtype) for name in (spec.target, spec.draft))
    fit_vocabulary(draft, target)
    return target, draft, tokenizer


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
    Technique(
        "compiled-target",
        "Compiled Target",
        82,
        build_compiled_target,
        exact_to="target",
        optimises="target",
        needs_target=True,
        batches=False,
        engines=("compiled",),
    ),
    Technique(
        "compiled-speculative",
        "Compiled Speculative",
        92,
        build_compiled_speculative,
        exact_to="target",
        optimises="compiled-target",
        needs_target=True,
        batches=False,
        engines=("compiled",),
        needs_cuda=True,
    ),
)
