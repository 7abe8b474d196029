"""Proof that each gate can fail: the embedded model is damaged, and the gate that is meant for it says so.

Rows are put together as `session/row.py` does it, from the engine's answers to embedded evaluation articles, and judged
with the thresholds of `bench/gates.toml`. Seconds are those of a clock that counts how many tokens run through the
model, so that slow means more work and not a busy machine.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.utils import prune

from udaciheadline.checkpoints.models import load_model
from udaciheadline.data.prompts import completion_for, prompt_for
from udaciheadline.engines import transformers
from udaciheadline.engines.transformers import TransformersEngine
from udaciheadline.evidence import gates, measure, quality
from udaciheadline.records import Estimate
from udaciheadline.techniques import REFERENCE
from udaciheadline.techniques.quantization import bitsandbytes_config

THRESHOLDS = gates.load_gates(Path(__file__).parents[2] / "bench" / "gates.toml")
BATCH = 8
FAST = Estimate(10.0, 9.0, 11.0)  # of a row that speeds up as every threshold asks, whatever is wrong with it


@dataclass
class Answered:
    """What the gates look at of one engine."""

    answers: quality.Answers
    weights_bytes: int


@pytest.fixture(scope="module")
def run(main_checkpoint, tokenizer, news):
    """Answers all articles with a damaged copy of the embedded main model, once for each damage."""
    prompts = [prompt_for(article.short_description) for article in news]
    true = [article.headline for article in news]
    processed = 0

    def count(module, args):
        nonlocal processed
        processed += args[0].shape[0] * args[0].shape[1]  # (batch, length, hidden)

    @cache
    def run(damage=None, *, use_cache=True, kind=None):
        quantization = bitsandbytes_config(kind, "float32") if kind else None
        model = load_model(main_checkpoint, device="cpu", dtype="float32", quantization=quantization)
        if damage:
            with torch.no_grad():
                damage(model)
        model.model.layers[0].register_forward_pre_hook(count)
        engine = TransformersEngine(model, tokenizer, max_new_tokens=25, use_cache=use_cache)
        made = [g for i in range(0, len(prompts), BATCH) for g in engine.generate(prompts[i : i + BATCH])]
        rouge = quality.rouge([g.headline for g in made], true)
        answers = quality.Answers(
            tuple(made), rouge, engine.texts.likelihood(prompts, [completion_for(headline) for headline in true])
        )
        return Answered(answers, engine.info.weights_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers, "now", lambda device: float(processed))
        yield run


@pytest.fixture(scope="module")
def reference(run):
    return run.__wrapped__()  # not the one that an undamaged row gets


@pytest.fixture(scope="module")
def judge(news, reference):
    """The status of each gate of a row, judged like the row of `technique`; `speed_up` in the place of the clock's."""

    def judge(row, technique=REFERENCE, beside=None, speed_up=None):
        beside = beside or reference
        evidence = gates.Evidence(
            articles=news,
            answers=row.answers,
            reference=beside.answers,
            exact_to=REFERENCE,
            exact=beside.answers,
            dtype="float32",
            weights_ratio=row.weights_bytes / beside.weights_bytes,
            speed_up=speed_up or measure.summarise(row.answers.generations, beside.answers.generations).speed_up,
        )
        verdicts = gates.judge(THRESHOLDS[technique], evidence)
        verdicts += gates.judge_floor(THRESHOLDS["reference"], beside.answers)
        return {verdict.gate: verdict.status for verdict in verdicts}

    return judge


def failed(statuses):
    return {gate for gate, status in statuses.items() if status == "fail"}


# -- damages ---------------------------------------------------------------------------------------------------------


def without_a_down_projection(model):
    """The second layer's MLP adds nothing."""
    model.model.layers[1].mlp.down_proj.weight.zero_()


def with_noise(share):
    """Noise on every matrix, as a share of its standard deviation."""

    def damage(model):
        generator = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            if weight.dim() == 2:
                weight += share * weight.std() * torch.randn(weight.shape, generator=generator)

    return damage


def with_halved_logits(model):
    """The final norm at half its scale: the same token is the likeliest, but it is less likely."""
    model.model.norm.weight *= 0.5


def without_an_end(model):
    """The row of the end-of-sequence token in the head is zero: no generation ends by itself."""
    model.lm_head.weight[1] = 0


def with_masks_beside_the_weights(model):
    """Pruning that was not made permanent, here of nothing at all."""
    for layer in model.model.layers:
        prune.identity(layer.mlp.down_proj, "weight")


def with_a_nan(model):
    """As an overflow in half precision leaves it."""
    model.model.norm.weight[0] = torch.nan


def that_loses_its_place_while_decoding(model):
    """Right on whole texts, so in the likelihood, but wrong one token at a time: positions are off by 64."""

    def shift(module, args, kwargs):
        if kwargs["input_ids"].shape[1] == 1:
            kwargs["position_ids"] = kwargs["position_ids"] + 64
        return args, kwargs

    model.model.register_forward_pre_hook(shift, with_kwargs=True)


# -- the gates -------------------------------------------------------------------------------------------------------


def test_an_undamaged_model_passes_every_gate(run, judge):
    names = ("rouge1", "rougeL", "likelihood", "parity", "work", "weights", "speed", "floor rouge1", "floor likelihood")
    assert judge(run()) == dict.fromkeys(names, "pass")


@pytest.mark.parametrize("technique", [name for name in THRESHOLDS if name != "reference"])
def test_quality_gates_of_every_technique_fail_a_broken_model(run, judge, technique):
    assert {"rouge1", "rougeL", "likelihood"} <= failed(judge(run(without_a_down_projection), technique))


@pytest.mark.parametrize("technique", ["baseline", "kv-cache"])
def test_the_rouge_gates_find_a_fault_of_decoding_that_the_likelihood_cannot_see(run, judge, technique):
    statuses = judge(run(that_loses_its_place_while_decoding), technique)
    assert {"rouge1", "rougeL"} <= failed(statuses)
    assert statuses["likelihood"] == "pass"


LIGHTER = ("int8", "fp4", "nf4", "tensor-parallel", "pipeline-parallel")  # than the model that is damaged here
LIGHTER += ("compiled-bf16", "compiled-int8", "compiled-fp8", "compiled-int4", "depth-pruned", "width-pruned")


@pytest.mark.parametrize("technique", [name for name in THRESHOLDS if name not in ("reference", *LIGHTER)])
def test_the_likelihood_gate_finds_lost_confidence_that_no_headline_shows(run, judge, technique):
    assert failed(judge(run(with_halved_logits), technique, speed_up=FAST)) == {"likelihood"}


def test_the_parity_gate_fails_the_smallest_noise_that_changes_a_headline_and_no_other_gate_does(run, judge):
    for percent in range(1, 20):
        statuses = judge(run(with_noise(percent / 100)))
        if statuses["parity"] != "pass":
            break
    assert failed(statuses) == {"parity"}


@pytest.mark.parametrize("technique", [name for name in THRESHOLDS if name != "reference"])
def test_the_work_gate_of_every_technique_fails_a_model_that_never_ends(run, judge, technique):
    statuses = judge(run(without_an_end), technique)
    assert statuses["work"] == "fail"
    assert statuses["likelihood"] == "pass"


def test_the_weights_gate_fails_masks_kept_beside_the_weights_and_no_other_gate_does(run, judge):
    row = run(with_masks_beside_the_weights)
    assert failed(judge(row)) == failed(judge(row, "pruned")) == {"weights"}


@pytest.mark.parametrize("technique", ["tensor-parallel", "pipeline-parallel"])
def test_the_weights_gate_fails_ranks_that_hold_the_whole_model_and_no_other_gate_does(run, judge, technique):
    assert failed(judge(run(), technique)) == {"weights"}


@pytest.mark.parametrize("kind", ["int8", "fp4", "nf4"])
def test_the_weights_gate_of_quantisation_passes_it_and_fails_a_model_that_is_not_quantised(run, judge, kind):
    quantised = run(kind=kind)
    assert judge(quantised, kind)["weights"] == "pass"
    assert failed(judge(run(), kind)) == {"weights"}


def test_the_speed_gate_fails_a_cache_that_is_off_and_no_other_gate_does(run, judge):
    assert failed(judge(run(use_cache=False))) == {"speed"}


def test_the_speed_gate_of_the_compiled_row_fails_an_engine_that_is_as_fast_as_the_reference(run, judge):
    assert failed(judge(run(), "compiled")) == {"speed"}
    assert failed(judge(run(), "compiled", speed_up=FAST)) == set()


@pytest.mark.parametrize(
    ("damage", "floors"),
    [
        (without_a_down_projection, {"floor rouge1", "floor likelihood"}),
        (that_loses_its_place_while_decoding, {"floor rouge1"}),
        (with_halved_logits, {"floor likelihood"}),
    ],
)
def test_only_the_floor_finds_a_fault_that_the_reference_shares(run, judge, damage, floors):
    assert failed(judge(run(damage), beside=run(damage))) == floors


def test_a_model_of_nans_fails_and_raises_nothing(run, judge):
    statuses = judge(run(with_a_nan))
    assert {"rouge1", "rougeL", "likelihood", "parity"} <= failed(statuses)
    assert {"floor rouge1", "floor likelihood"} <= failed(judge(run(with_a_nan), beside=run(with_a_nan)))
