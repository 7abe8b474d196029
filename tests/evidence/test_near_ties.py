"""In bfloat16 correct programs part where two tokens are nearly tied. The parity gate forgives that, and still finds
the faults that a decode loop can have: each is planted here in transformers' own."""

import pytest
import torch

from udaciheadline.checkpoints.models import load_model
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.transformers import CACHE, TransformersEngine
from udaciheadline.evidence import gates, quality
from udaciheadline.records import Estimate
from udaciheadline.techniques import REFERENCE

TOGETHER = 8


def answers_of(engine, prompts, together):
    made = [g for i in range(0, len(prompts), together) for g in engine.generate(prompts[i : i + together])]
    nothing = [0.0] * len(made)
    return quality.Answers(tuple(made), dict.fromkeys(quality.ROUGE_TYPES, nothing), nothing)


@pytest.fixture(scope="module")
def load(main_checkpoint, tokenizer):
    """transformers' engine in bfloat16, on the main model or a damaged one."""

    def load(damage=None):
        model = load_model(main_checkpoint, device="cpu", dtype="bfloat16")
        if damage:
            with torch.no_grad():
                damage(model)
        return TransformersEngine(model, tokenizer, max_new_tokens=25)

    return load


@pytest.fixture(scope="module")
def parity(load, news):
    """The verdict on a row of a damaged model, as the gate of the compiled row gives it."""
    prompts = [prompt_for(article.short_description) for article in news]
    reference = load()
    expected = answers_of(reference, prompts, 1)
    theirs = [list(g.token_ids) for g in expected.generations]
    rounding = reference.texts.rounding(prompts, theirs)

    def parity(damage=None):
        row = answers_of(load(damage), prompts, TOGETHER)
        preferences = {}
        for i, position in enumerate(quality.differences(row, expected)):
            ours = row.generations[i].token_ids
            if position is not None and position < min(len(ours), len(theirs[i])):
                asked = [prompts[i]], [theirs[i][: position + 1]], [ours[position]]
                (preferences[i],) = reference.texts.preferences(*asked)
        evidence = gates.Evidence(
            articles=news,
            answers=row,
            reference=expected,
            exact_to=REFERENCE,
            exact=expected,
            dtype="bfloat16",
            weights_ratio=1.0,
            speed_up=Estimate(1.0, 1.0, 1.0),
            preferences=preferences,
            rounding=rounding,
        )
        (verdict,) = gates.judge(gates.Thresholds(parity_low_precision_min=0.95), evidence)
        return verdict

    return parity


def in_steps(change):
    """Damage done to what the model is given for a step of one token."""

    def damage(model):
        def hook(module, args, kwargs):
            if kwargs["input_ids"].shape[1] == 1:
                change(kwargs)
            return args, kwargs

        model.model.register_forward_pre_hook(hook, with_kwargs=True)

    return damage


def turn_two_positions_too_far(kwargs):
    kwargs["position_ids"] = kwargs["position_ids"] + 2  # one is seen on models that are less sure: docs/evidence.md


def swap_two_rows_of_the_cache(kwargs):
    for layer in kwargs[CACHE].layers:
        for memory in (layer.keys, layer.values):
            if len(memory) > 1:
                memory[:2] = memory[:2].flip(0)


def leave_out_the_last_layer(model):
    model.model.layers[-1].register_forward_hook(lambda module, args, made: args[0])


def lose_one_ranks_sum(model):
    """Half of the heads of one layer add nothing, as where the sum over two ranks is missing."""
    weight = model.model.layers[1].self_attn.o_proj.weight
    weight[:, weight.shape[1] // 2 :] = 0


@pytest.mark.parametrize(
    "damage",
    [
        in_steps(turn_two_positions_too_far),
        in_steps(swap_two_rows_of_the_cache),
        leave_out_the_last_layer,
        lose_one_ranks_sum,
    ],
    ids=["rotation", "cache", "layer", "sum"],
)
def test_a_planted_fault_fails_parity_in_bfloat16(parity, damage):
    assert parity(damage).status == "fail"


def test_the_reference_as_a_job_passes_it(parity):
    assert parity().status == "pass"
