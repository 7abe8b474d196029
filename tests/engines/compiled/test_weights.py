"""Weights in 8 and 4 bits: what is rounded to what, and that every way to read them gives the same numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from random_models import of_family
from torch import nn

from udaciheadline.checkpoints.division import Share
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.packed import Packed
from udaciheadline.engines.compiled.weights import KINDS, count, embed, group, project, quantized, taken_over
from udaciheadline.records import Unsupported

ROWS, COLUMNS = 24, 192
HALF_A_STEP = {"int8": 1 / 254, "fp8": 1 / 16, "int4": 1 / 14}  # of the largest weight that shares the scale


@pytest.fixture
def weight():
    torch.manual_seed(0)
    return torch.randn(ROWS, COLUMNS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_is_further_from_its_code_than_half_a_step(weight, kind):
    error = (quantized(weight, kind).dense() - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) * HALF_A_STEP[kind] * 1.0001).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_lie_on_codes_come_back_as_they_were(weight, kind):
    once = quantized(weight, kind).dense()
    assert torch.allclose(quantized(once, kind).dense(), once, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_stays_one(weight, kind):
    weight[3] = 0
    assert not quantized(weight, kind).dense()[3].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", [1, 5])
def test_a_product_is_that_of_the_dense_weight_with_its_bias(weight, kind, vectors):
    made, x, bias = quantized(weight, kind), torch.randn(vectors, COLUMNS), torch.randn(ROWS)
    torch.testing.assert_close(project(x, made, bias), F.linear(x, made.dense(), bias))


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_gives_the_rows_of_the_dense_weight(weight, kind):
    made, tokens = quantized(weight, kind), torch.tensor([5, 0, 5])
    assert torch.equal(embed(tokens, made), made.dense()[tokens])


@pytest.mark.parametrize(("columns", "size"), [(192, 64), (576, 64), (1536, 128), (4096, 128)])
def test_a_group_is_the_largest_that_divides_the_row(columns, size):
    assert group(columns) == size


def test_rows_that_do_not_divide_into_groups_are_refused_in_one_sentence():
    reason = "its matrices have rows of 100 weights, which do not divide into groups of 64"
    with pytest.raises(Unsupported, match=f"^{reason}$"):
        quantized(torch.randn(8, 100), "int4")


def test_4_bits_keep_scales_that_were_chosen_for_them(weight):
    scales = weight.view(ROWS, -1, group(COLUMNS)).abs().amax(2) / 5
    rounded = (weight.view(*scales.shape, -1) / scales[..., None]).round().clamp(-8, 7) * scales[..., None]
    module = nn.Linear(COLUMNS, ROWS, bias=False)
    module.weight, module.scales = nn.Parameter(rounded.flatten(1)), scales
    assert torch.equal(taken_over(module, kind="int4").dense(), rounded.flatten(1))


@pytest.mark.parametrize(("kind", "bytes_held"), [("int8", 1), ("fp8", 1), ("int4", 0.5)])
def test_bytes_are_those_of_the_codes_and_scales(weight, kind, bytes_held):
    made = quantized(weight, kind)
    scales = ROWS * (COLUMNS // group(COLUMNS) if kind == "int4" else 1)
    assert sum(p.nbytes for p in made.parameters()) == ROWS * COLUMNS * bytes_held + 4 * scales
    assert count(made) == made.numel() == ROWS * COLUMNS


# -- a model of them -------------------------------------------------------------------------------------------------

WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


@pytest.mark.parametrize("kind", KINDS)
def test_all_matrices_of_a_model_are_quantised_and_its_norms_are_not(kind):
    source = of_family("llama", **WIDE, tie_word_embeddings=True)
    whole = sum(p.numel() for p in source.parameters())
    model = Llama(source, 32, kind=kind)
    assert count(model) == whole
    held = {p.dtype for name, p in model.named_parameters() if "norm" not in name and "scales" not in name}
    assert torch.float32 not in held


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_int8_whatever_the_layers_are(kind):
    model = Llama(of_family("llama", **WIDE), 32, kind=kind)
    down = model.layers[0].down
    assert (model.head.codes.dtype, model.head.bits, model.head.floating) == (torch.int8, 8, False)
    assert (down.bits, down.floating) == (4 if kind == "int4" else 8, kind == "fp8")


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("own", [False, True], ids=["as taken over", "packed"])
def test_a_quantised_model_says_what_one_with_its_dense_weights_says(kind, own):
    source = of_family("llama", **WIDE, tie_word_embeddings=True)
    model, tokens = Llama(copy.deepcopy(source), 32, kind=kind), torch.randint(0, 100, (2, 9))
    dense = Llama(source, 32)
    for layer, other in zip(model.layers, dense.layers, strict=True):
        for name in ("qkv", "out", "gate_up", "down"):
            setattr(other, name, nn.Parameter(getattr(layer, name).dense()))
    dense.head = dense.embedding = nn.Parameter(model.head.dense())
    with torch.no_grad():
        expected = dense(tokens)
        if own:
            model.pack(own=True)
        made = model(tokens)
    assert (made - expected).abs().max() < (0.02 if own else 1e-4) * expected.abs().max()


# -- ranks with a part of each layer ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts():
    """A quantised model, and the models of two ranks that share it."""
    source = of_family("llama", **WIDE | {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32})
    shares = [Share(source.config, rank, 2) for rank in range(2)]
    made = []
    for share in shares:
        own = type(source)(share.config(source.config))
        own.load_state_dict({name: share.cut(name, weight) for name, weight in source.state_dict().items()})
        made.append(own)
    models = {}
    for kind in ("int8", "int4"):
        ranks = [Llama(copy.deepcopy(own), 32, share=share, kind=kind) for own, share in zip(made, shares, strict=True)]
        models[kind] = Llama(copy.deepcopy(source), 32, kind=kind), ranks
    return models


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", ["gate_up", "head"])
def test_ranks_that_have_some_rows_have_the_very_weights_of_the_whole_model(parts, kind, name):
    def rows(model):
        dense = (model.head if name == "head" else model.layers[0].gate_up).dense()
        return dense.chunk(2) if name == "gate_up" else (dense,)

    whole, ranks = parts[kind]
    joined = [torch.cat(own) for own in zip(*map(rows, ranks), strict=True)]
    assert all(map(torch.equal, joined, rows(whole)))


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.02), ("int4", 0.2)])
@pytest.mark.parametrize("own", [False, True], ids=["as taken over", "packed"])
def test_ranks_that_have_some_columns_sum_up_to_the_product_of_the_whole_model(parts, kind, tolerance, own):
    whole, ranks = parts[kind]
    order = Packed if own else lambda weight: weight
    x = torch.randn(3, whole.layers[0].down.shape[1])
    expected = project(x, whole.layers[0].down)
    of_ranks = zip(x.chunk(2, dim=1), ranks, strict=True)
    made = sum(project(part, order(model.layers[0].down)) for part, model in of_ranks)
    assert (made - expected).abs().max() < tolerance * expected.abs().max()
