"""Weights of few bits that are chosen on texts."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from random_models import FAMILIES, random_model, small
from transformers import GPT2Config, GPT2LMHeadModel

from udaciheadline.engines.compiled import calibration
from udaciheadline.engines.compiled.calibration import best_scales, calibrate, gptq, spreading
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.weights import RANGE, quantized
from udaciheadline.records import Unsupported

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS = ("fp8", "int4")
SIZES = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "initializer_range": 0.2}


def family(name):
    """A random model whose matrices divide into groups of 128 and of 64."""
    return random_model(small(FAMILIES[name], **SIZES))


def projections(model):
    return [part for name, part in model.named_modules() if name.rpartition(".")[2] in PROJECTIONS]


def tokens(seed, rows=6, length=40):
    return torch.randint(100, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=itertools.product(FAMILIES, KINDS), ids="-".join)
def case(request):
    """A model `before` and `after` its calibration for a `kind` on `texts`, and what `calibrate` said of it."""
    name, kind = request.param
    before = family(name)
    after, texts = copy.deepcopy(before), tokens(1)
    details = calibrate(after, texts.tolist(), kind)
    return SimpleNamespace(before=before, after=after, texts=texts, kind=kind, details=details)


def test_every_projection_lies_on_its_scales(case):
    assert len(projections(case.after)) == 2 * len(PROJECTIONS)
    for projection in projections(case.after):
        packed = quantized(projection.weight, case.kind, projection.scales)
        assert torch.equal(packed.dense(), projection.weight)


def test_what_is_no_projection_stays(case):
    rounded = {id(projection.weight) for projection in projections(case.after)}
    before = dict(case.before.named_parameters())
    others = {name: weight for name, weight in case.after.named_parameters() if id(weight) not in rounded}
    assert others.keys() > {"model.norm.weight", "model.embed_tokens.weight"}
    assert all(torch.equal(weight, before[name]) for name, weight in others.items())


def test_the_packed_model_gives_the_numbers_of_the_calibrated_one(case):
    expected = copy.deepcopy(case.after)
    ours = Llama(copy.deepcopy(case.after), 64, kind=case.kind)
    expected.lm_head.weight.data = quantized(expected.lm_head.weight.data, "int8").dense()
    with torch.no_grad():
        torch.testing.assert_close(ours(case.texts), expected(case.texts).logits, atol=1e-4, rtol=1e-4)


def test_a_calibrated_model_is_nearer_to_what_it_was_than_a_rounded_one_on_texts_that_it_has_not_seen(case):
    rounded = copy.deepcopy(case.before)
    for projection in projections(rounded):
        projection.weight.data = quantized(projection.weight.data, case.kind).dense()
    new = tokens(2)
    with torch.no_grad():
        hidden = [m.model(new).last_hidden_state for m in (case.before, rounded, case.after)]
    assert (hidden[2] - hidden[0]).norm() < 0.9 * (hidden[1] - hidden[0]).norm()


def test_the_same_texts_give_the_same_weights(case):
    again = copy.deepcopy(case.before)
    calibrate(again, case.texts.tolist(), case.kind)
    for one, other in zip(projections(again), projections(case.after), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.scales, other.scales)


def test_what_fills_up_a_shorter_text_does_not_count(case, monkeypatch):
    long, short = case.texts[0].tolist(), case.texts[1, :9].tolist()
    made = []
    monkeypatch.setattr(calibration, "gptq", lambda w, moments, kind: made.append(moments) or gptq(w, moments, kind))
    for texts in ([long, short], [long], [short]):
        calibrate(copy.deepcopy(case.before), texts, case.kind)
    together, one, other = made[:: len(made) // 3]  # of the first projections, which nothing was rounded before
    torch.testing.assert_close(together, one + other)


def test_it_says_how_long_it_took_and_on_how_much(case):
    assert case.details["calibration_tokens"] == sum(map(len, case.texts))
    assert case.details["calibration_seconds"] > 0


def test_a_calibrated_model_runs_as_before_without_hooks(case):
    assert not any(part._forward_pre_hooks for part in case.after.modules())


def test_a_model_of_another_family_is_unsupported():
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=100))
    with pytest.raises(Unsupported, match="it is a gpt2 model"):
        calibrate(model, tokens(1).tolist(), "fp8")


def test_matrices_that_do_not_divide_into_groups_are_unsupported_in_4_bits_only():
    calibrate(random_model(small()), tokens(1).tolist(), "fp8")
    with pytest.raises(Unsupported, match="rows of 32 weights"):
        calibrate(random_model(small()), tokens(1).tolist(), "int4")


# -- one matrix ------------------------------------------------------------------------------------------------------


@pytest.fixture
def matrix():
    """A weight and second moments of inputs that are correlated, more of one column than of another."""
    torch.manual_seed(0)
    x = torch.randn(2000, 256) @ torch.randn(256, 256) * torch.rand(256)
    return torch.randn(96, 256), x.T @ x / len(x)


def error(weight, rounded, moments):
    """The mean squared error of the products with inputs of these moments."""
    off = rounded - weight
    return float(((off @ moments) * off).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_products_are_nearer_than_those_of_the_nearest_codes(matrix, kind):
    weight, moments = matrix
    rounded, scales = gptq(weight, moments, kind)
    nearest = quantized(weight, kind, scales).dense()
    assert error(weight, rounded, moments) < 0.7 * error(weight, nearest, moments)


@pytest.mark.parametrize("kind", KINDS)
def test_without_correlation_the_nearest_codes_are_the_best(matrix, kind):
    weight, moments = matrix
    rounded, scales = gptq(weight, moments.diagonal().diag(), kind)
    assert torch.equal(rounded, quantized(weight, kind, scales).dense())


def test_what_is_moved_beyond_the_largest_code_of_fp8_gets_that():
    """A column that is a tenth of another makes up for ten times its error, and has the largest weights already."""
    torch.manual_seed(0)
    weight, x = torch.rand(96, 128), torch.randn(2000, 128)
    weight[:, 1], x[:, 0] = 1, 10 * x[:, 1]
    rounded, scales = gptq(weight, x.T @ x, "fp8")
    made = rounded[:, 1] / scales[:, 0]
    assert made.max() == pytest.approx(448)
    assert made.min() < 400


def test_columns_whose_inputs_were_always_zero_do_no_harm(matrix):
    weight, moments = matrix
    moments[:, :64] = moments[:64] = 0
    rounded, _ = gptq(weight, moments, "int4")
    most_cut = 1 - RANGE["int4"][1] / max(calibration.STEPS["int4"])
    assert (rounded - weight)[:, :64].abs().max() <= most_cut * weight.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_stay_zeros_whatever_they_read(dtype, kind):
    """Grown models have whole projections of zeros, and such as read only zeros."""
    rounded, scales = gptq(torch.zeros(8, 128, dtype=dtype), torch.zeros(128, 128), kind)
    assert not rounded.any()
    assert scales.all()


def test_an_error_is_made_up_for_as_least_squares_would(matrix):
    """Fixing the first column off by one moves the others to where the product's error is least."""
    moments = matrix[1] + 50 * torch.eye(256)
    spread = spreading(moments)
    best = torch.linalg.solve(moments[1:, 1:], moments[1:, 0])
    torch.testing.assert_close(-spread[0, 1:], best, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_chosen_is_the_best_of_those_that_are_tried(kind):
    weight, importance = torch.randn(5, 128, generator=torch.Generator().manual_seed(0)), torch.rand(128)
    scales = best_scales(weight, importance, 64, kind)
    chosen = _loss(weight, importance, scales, kind)
    for steps in calibration.STEPS[kind]:
        other = weight.view(5, 2, 64).abs().amax(2) / steps
        assert (chosen <= _loss(weight, importance, other, kind) + 1e-6).all()


def test_the_larger_end_of_a_group_gets_the_code_that_the_other_lacks():
    weight = torch.linspace(-1, 0.8, 64)[None]
    assert best_scales(weight, torch.ones(64), 64, "int4") > 0 > best_scales(-weight, torch.ones(64), 64, "int4")


def _loss(weight, importance, scales, kind):
    """What each group (o, groups) loses when it is rounded to these scales."""
    groups = weight.view(len(weight), -1, 64)
    codes = groups / scales[..., None]
    codes = codes.round().clamp(-8, 7) if kind == "int4" else codes.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    return ((codes * scales[..., None] - groups).square() * importance.view(-1, 64)).sum(2)
