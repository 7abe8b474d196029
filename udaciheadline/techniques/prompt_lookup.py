"""Prompt lookup: the article drafts its own headline, and the model checks several tokens in one pass.

Saxena 2023 (https://github.com/apoorvumang/prompt-lookup-decoding); with references, Yang et al. 2023
(https://arxiv.org/abs/2304.04487). A headline repeats names and phrases of its article. Where its last two or three
tokens stand in the article too, what follows them there is a likely draft, which costs nothing to make: no second
model, no memory. It is checked as `speculative` checks the draft of a model, so that the headline stays the model's
own, token by token (in float32; see there).

It pays where a model copies: summaries and extracts win up to 2.8 times, by those who found it. SmolLM2, which copies
much, writes 20 real headlines in 250 passes instead of 370. It does not where the headline is told in other words, as
true headlines are and those of a model that was trained on them, the embedded ones: few drafts are found then, and most
of these are wrong (Llama-3.1-8B's shape on an H100 is 1.01 times as fast as by steps). So only tokens are checked that
were found, all others take a step; and where it is measured at the build that even so steps are as fast, nothing is
drafted.
"""

from dataclasses import replace

from udaciheadline.engines import Engine, build_engine
from udaciheadline.records import EngineSpec
from udaciheadline.techniques._technique import REFERENCE, Technique
from udaciheadline.techniques.speculative import samples


def build(spec: EngineSpec) -> Engine:
    """The compiled engine on the main model, which drafts from the text."""
    from udaciheadline.checkpoints.models import load_model, load_tokenizer
    from udaciheadline.engines.compiled.drafts import TextDrafts

    model = load_model(spec.model, device=spec.device, dtype=spec.dtype)
    drafting = {"drafter": TextDrafts(), "samples": samples()}
    return build_engine(replace(spec, engine="compiled"), model, load_tokenizer(spec.model), **drafting)


TECHNIQUES = (
    Technique(
        "prompt-lookup",
        "Prompt Lookup",
        26,
        build,
        exact_to=REFERENCE,
        optimises="compiled",
        batches=False,
        engines=("compiled",),
        needs_cuda=True,
    ),
)
