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


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in words are multiplied as on a GPU, with torch in the place of kernels: Triton's interpreter multiplies
    no bfloat16."""

    def plain(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, packing: dict) -> torch.Tensor:
        weight = Quantized(codes, scales, x.dtype, packing["CODES"], packing["FLOAT"])
        return x @ weight.dense().to(x.dtype).t()

    def scaled(x: torch.Tensor, *weight: object) -> torch.Tensor:
        scale = x.abs().amax(1, keepdim=True).float() / 448
        return plain(((x / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype), *weight)

    monkeypatch.setattr(Quantized, "is_cuda", property(lambda weight: weight.in_a_word > 1))
    monkeypatch.setattr(mixed, "_scaled", scaled)
    monkeypatch.setattr(mixed, "_with_x_as_it_is", plain)


def test_rows_of_steps_are_multiplied_with_x_as_it_is_and_the_others_in_fp8(in_torch: None) -> None:
    weight = quantized(torch.randn(48, 64), "fp8", words=True)
    x, steps = torch.randn(24, 64).bfloat16(), torch.tensor([3, 20])
    in_fp8 = mixed.product(weight, x, None)
    with mixed.as_steps(steps):
        made = mixed.product(weight, x, None)
    assert (made != in_fp8).any(dim=1).nonzero()[:, 0].tolist() == steps.tolist()
    assert made[steps].equal(mixed.product(weight, x[steps], None))
    assert mixed.product(weight, x, None).equal(in_fp8)


@torch.no_grad()
def test_a_whole_text_in_fp8_is_read_as_it_is_written(in_torch: None) -> None:
    llama = model("fp8", dtype=torch.bfloat16)
    texts, prompts = torch.randint(0, 64, (2, 26)), [20, 18]
    expected = []
    for text, prompt in zip(texts, prompts, strict=True):
        cache = llama.cache(1, SLOTS)
        made = [llama.prefill(text[None, :prompt], torch.tensor([prompt]), cache, torch.tensor([0]))]
        made += [llama.decode(text[at : at + 1], torch.tensor([at]), cache) for at in range(prompt, 26)]
        expected.append(torch.cat(made).float())

    def lost(logits: torch.Tensor) -> float:
        pairs = zip(logits.float(), prompts, expected, strict=True)
        return max((own[prompt - 1 :] - theirs).abs().mean().item() for own, prompt, theirs in pairs)

    assert lost(llama.as_written(texts, prompts)) < lost(llama(texts)) / 4
