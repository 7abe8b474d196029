"""Whole layers on several devices, and several micro-batches on their way through them.

Each device has a stage: some layers in a row, with the keys and values of those. A token needs all stages one after
the other, so a single text keeps one device busy at a time: **at batch 1 a pipeline cannot be faster than one device**.
It reads the same weights, and its hidden states travel besides. A job can be: its texts are divided into micro-batches,
at least as many as there are stages, and while one is in the last stage the next one is in the stage before. The last
stage sends the tokens back to the first, where the next step of their micro-batch begins. What is lost is the bubble,
the time in which a stage has nothing to do: at the beginning and the end of a job, and where stages take unequally long
(GPipe, Huang et al. 2018, https://arxiv.org/abs/1811.06965, for training; Orca, Yu et al. 2022,
https://www.usenix.org/conference/osdi22/presentation/yu, for generation).

Layers are divided so that the stages cost the same: a layer costs its weights times the tokens that pass it, the head
its own times the new tokens, the embedding a row a token. It pays for jobs (1.8 times the rate of one H100 on two, with
Llama-3.1-8B's shape: docs/performance.md), for a model that is too large for one device, and where the link between
devices is slow: hidden states cross it once a stage, where tensor parallelism needs two sums a layer.

The notebook's row of this name is `layer-placement`.
"""

from typing import Any

from udaciheadline.checkpoints.division import head_dim, stages
from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec
from udaciheadline.techniques._technique import REFERENCE, Technique

PROMPT_TOKENS = 60  # of an article, about, where layers are divided


def layer_costs(config: Any, new_tokens: int) -> list[float]:
    """What each layer costs a headline, in weights times tokens, with the embedding at the first one and
    the head at the last."""
    h, d = config.hidden_size, head_dim(config)
    attention = 2 * h * d * (config.num_attention_heads + config.num_key_value_heads)
    costs = [(attention + 3.0 * h * config.intermediate_size) * (PROMPT_TOKENS + new_tokens)] * config.num_hidden_layers
    costs[0] += h * (PROMPT_TOKENS + new_tokens)
    costs[-1] += h * config.vocab_size * new_tokens
    return costs


def build(spec: EngineSpec) -> Engine:
    """This rank's stage of the main model."""
    from torch import distributed

    from udaciheadline.checkpoints.models import load_config, load_model, load_tokenizer
    from udaciheadline.engines.compiled import CompiledEngine, check

    config = load_config(spec.model)
    check(config)
    stage = stages(layer_costs(config, spec.max_new_tokens), spec.ranks)[distributed.get_rank()]
    model = load_model(spec.model, device=spec.device, dtype=spec.dtype, stage=stage)
    details = {"layers": float(len(stage.layers))}
    tokenizer = load_tokenizer(spec.model)
    return CompiledEngine(
        model, tokenizer, max_new_tokens=spec.max_new_tokens, stop=spec.stop, details=details, stage=stage
    )


TECHNIQUES = (
    Technique(
        "pipeline-parallel",
        "Pipeline Parallel",
        70,
        build,
        exact_to=REFERENCE,
        parallel=True,
        engines=("compiled",),
        note="one article at a time cannot be faster than on one rank: it passes the stages one after the other",
    ),
)
