"""The GPU's products of words, run by Triton's interpreter on the CPU: they compute what the dense weights do."""

import copy

import pytest
import torch
from random_models import random_model, small
from torch._dynamo.testing import CompileCounter

from udaciheadline.engines.compiled import mixed
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.step import Step
from udaciheadline.engines.compiled.weights import KINDS, Quantized, quantized

pytestmark = pytest.mark.usefixtures("interpreted_at_once")

SLOTS = 64


def in_words(llama: Llama, kind: str) -> None:
    """Puts the matrices of a model into words, as a GPU has them."""
    tied = llama.embedding is llama.head
    for part in (*llama.layers, llama):
        for name, matrix in list(part.named_children()):
            if isinstance(matrix, Quantized) and matrix.in_a_word == 1:
                own = "int8" if kind == "int4" else kind
                setattr(part, name, quantized(matrix.dense().to(matrix.dtype), own, words=True))
    if tied:
        llama.head = llama.embedding


def model(kind: str, **changes: object) -> Llama:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 1, "initializer_range": 0.25}
    llama = Llama(random_model(small(**sizes | {"vocab_size": 101} | changes)), SLOTS, kind=kind)
    in_words(llama, kind)
    return llama


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "vocab_size": 64}], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_steps_on_words_write_the_tokens_and_the_cache_of_the_model(kind: str, changes: dict) -> None:
    llama = model(kind, **changes)
    cache = llama.cache(1, SLOTS)
    tokens = torch.randint(0, 64, (1, 9))
    last = llama.prefill(tokens, torch.tensor([9]), cache, torch.tensor([0])).argmax(-1)
    place = torch.tensor([9])
    theirs = [(k.clone(), v.clone()) for k, v in cache]
    expected, token, at = [], last.clone(), place.clone()
    for _ in range(2):
        token = llama.decode(token, at, theirs).argmax(-1)
        at += 1
        expected.append(token.item())
    step, made = Step(llama, cache, last, place), []
    for _ in range(2):
        step()
        made.append(last.item())
    assert made == expected
    lost = 4e-3 if kind == "int4" else 1e-3  # a float32 of 2^15 and a code has 8 bits less, and these codes are small
    for own, other in zip(cache, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=lost, rtol=1e-3)


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_of_few_rows_is_that_of_the_dense_weight(kind: str, rows: int) -> None:
    weight = quantized(torch.randn(37, 192), kind, words=True)
    x, bias = torch.randn(rows, 192), torch.randn(37)
    torch.testing.assert_close(mixed.product(weight, x, bias), x @ weight.dense().t() + bias, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_for_many_rows_the_weight_is_unpacked_as_it_is(kind: str) -> None:
    weight = quantized(torch.randn(5, 256), kind, words=True)
    assert mixed.unpacked(weight.codes, weight.scales, torch.float32, weight.packing).equal(weight.dense())


@pytest.mark.parametrize("kind", KINDS)
def test_words_hold_the_same_codes_as_bytes(kind: str) -> None:
    weight = torch.randn(6, 128)
    assert quantized(weight, kind, words=True).dense().equal(quantized(weight, kind, words=False).dense())


def test_a_program_with_a_product_is_compiled_once_for_all_numbers_of_rows() -> None:
    weight = quantized(torch.randn(16, 64), "int8", words=True)
    torch._dynamo.reset()
    counted = CompileCounter()
    program = torch.compile(lambda x: mixed.product(weight, x * 2, None), backend=counted, fullgraph=True, dynamic=True)
    for rows in (3, 5, 9):
        x = torch.randn(rows, 64)
        torch.testing.assert_close(program(x), (x * 2) @ weight.dense().t(), atol=1e-4, rtol=1e-4)
    assert counted.frame_count == 1


def test_a_model_whose_weights_are_in_words_says_what_it_said() -> None:
    llama = model("int8")
    other = copy.deepcopy(llama)
    for part in (*other.layers, other):
        for name, matrix in list(part.named_children()):
            if isinstance(matrix, Quantized):
                setattr(part, name, torch.nn.Parameter(matrix.dense(), requires_grad=False))
    tokens = torch.randint(0, 64, (2, 7))
    torch.testing.assert_close(llama(tokens), other(tokens), atol=1e-4, rtol=1e-4)
