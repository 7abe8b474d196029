"""Weights in the order of our own C++ products on a CPU, and what it writes of one text with them."""

import pytest
import torch
import torch.nn.functional as F
from random_models import FAMILIES, of_family
from rows import tokens
from torch import nn

from udaciheadline.engines.compiled import native
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.packed import Packed
from udaciheadline.engines.compiled.rows import PackedRow, Rows
from udaciheadline.engines.compiled.weights import Quantized, embed, quantized
from udaciheadline.records import UsageError

KINDS = ("float32", "bfloat16", "int8", "int4")
SHAPES = ((96, 128), (16, 64), (5, 192), (37, 33), (1, 7))  # (rows, columns): whole vectors and words, and not
VECTORS = (2, 3, 13, 40, 100)  # a tile holds 12, and 96 are taken together
SLOTS = 64


def made(kind, rows, columns):
    """A random weight, as it is before it is packed."""
    torch.manual_seed(rows)
    weight = torch.randn(rows, columns)
    if kind in ("int8", "int4"):
        return quantized(weight, kind)
    return nn.Parameter(weight.to(getattr(torch, kind)), requires_grad=False)


def dense(weight):
    return weight.dense() if isinstance(weight, Quantized) else weight.float()


CASES = [(kind, *shape) for kind in KINDS for shape in SHAPES if kind != "int4" or shape[1] % 64 == 0]


@pytest.mark.parametrize(("kind", "rows", "columns"), CASES)
def test_packing_loses_nothing(kind, rows, columns):
    weight = made(kind, rows, columns)
    packed = Packed(weight)
    assert torch.equal(packed.dense(), dense(weight))
    some = torch.tensor([rows - 1, 0, rows - 1])
    assert torch.equal(embed(some, packed), dense(weight)[some].to(packed.dtype))


@pytest.mark.parametrize(("kind", "rows", "columns"), CASES)
def test_one_vector_is_multiplied_in_float32(kind, rows, columns):
    weight = made(kind, rows, columns)
    x, bias = torch.randn(1, columns), torch.randn(rows)
    torch.testing.assert_close(Packed(weight).product(x, bias), F.linear(x, dense(weight), bias), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("kind", "rows", "columns"), CASES)
@pytest.mark.parametrize("vectors", VECTORS)
def test_many_vectors_are_rounded_to_bfloat16_at_most(kind, rows, columns, vectors):
    weight = made(kind, rows, columns)
    x = torch.randn(vectors, columns)
    exact, rounded = (F.linear(own, dense(weight)) for own in (x, x.bfloat16().float()))
    product = Packed(weight).product(x, None)
    assert min((product - expected).abs().max() for expected in (exact, rounded)) < 1e-3


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_rows_are_divided_over_any_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight, x = made("int8", 96, 128), torch.randn(1, 128)
    torch.testing.assert_close(Packed(weight).product(x, None), F.linear(x, weight.dense()), atol=1e-4, rtol=1e-5)


def test_no_more_bytes_are_held_than_before():
    weight = made("int4", 96, 128)
    assert sum(p.nbytes for p in Packed(weight).parameters()) == sum(p.nbytes for p in weight.parameters())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, r"\[Errno 2\] No such file or directory: '[^']+'"),
        ("echo Using built-in specs. >&2; echo 'g++: fatal error: no cc1plus' >&2", r"g\+\+: fatal error: no cc1plus"),
        ("", r"Command '[^\n]+' returned non-zero exit status 1\."),
    ],
    ids=["missing", "broken", "silent"],
)
def test_a_compiler_that_fails_is_said_in_one_sentence(build, monkeypatch, tmp_path, script, reason):
    compiler = tmp_path / "g++"
    if script is not None:
        compiler.write_text(f"#!/bin/sh\n{script}\nexit 1\n")
        compiler.chmod(0o755)
    native.library.cache_clear()
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(
        UsageError, match=rf"^the compiled engine cannot be built \({reason}\): on a CPU it needs g\+\+$"
    ):
        build(alone=True)


# -- a text ----------------------------------------------------------------------------------------------------------


class Endless:
    """No token ends a text."""

    def __init__(self, ends=(), breaks=(), blanks=()):
        self._sets = ends, breaks, blanks

    def tables(self, vocabulary):
        return [torch.isin(torch.arange(vocabulary), torch.tensor(own)) for own in self._sets]


def models(family, kind, **changes):
    """The same model twice: packed, and as it was taken over."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 3} | changes
    ours, other = (Llama(of_family(family, **sizes), SLOTS, kind=kind) for _ in range(2))
    ours.pack(own=True)
    return ours, other


def step_by_step(model, prompt, count):
    rows = Rows(model, 1, SLOTS)
    made = rows.prefill([prompt], [0]).read()[0]
    return made + [rows.advance(1).read()[0][0] for _ in range(count - 1)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["int8", "int4", None])
@torch.no_grad()
def test_a_text_of_every_family_is_what_the_same_weights_write_step_by_step(family, kind):
    ours, other = models(family, kind)
    prompt = torch.randint(1, 100, (9,)).tolist()
    row = PackedRow(ours, SLOTS, Endless(), 12)
    first = row.prefill([prompt], [0]).read()[0]
    assert first + row.advance(1).read()[0] == step_by_step(other, prompt, 12)


@torch.no_grad()
def test_sizes_that_fill_no_vector_and_no_word_write_the_same():
    ours, other = models("qwen3", "int8", hidden_size=50, intermediate_size=37, head_dim=6, vocab_size=101)
    row = PackedRow(ours, SLOTS, Endless(), 50)
    first = row.prefill([[3]], [0]).read()[0]  # one vector is not rounded
    assert first + row.advance(1).read()[0] == step_by_step(other, [3], 50)


@torch.no_grad()
def test_a_second_text_finds_nothing_of_the_first_one():
    ours, other = models("llama", "int8")
    row = PackedRow(ours, SLOTS, Endless(), 8)
    for prompt in ([7, 8, 9, 10, 11, 12], [5, 6]):
        first = row.prefill([prompt], [0]).read()[0]
        assert first + row.advance(1).read()[0] == step_by_step(other, prompt, 8)


@torch.no_grad()
def test_nothing_is_written_after_an_end_and_after_a_line_break_only_behind_text():
    ours, other = models("llama", "int8")
    written = step_by_step(other, [3, 1, 2], 12)

    def after(**sets):
        row = PackedRow(ours, SLOTS, Endless(**sets), 12)
        return row.prefill([[3, 1, 2]], [0]).read()[0] + row.advance(1).read()[0]

    third = written.index(written[2]) + 1
    assert after(ends=[written[2]]) == written[:third]
    assert after(breaks=[written[2]]) == written[:third]
    assert after(breaks=[written[2]], blanks=written) == written


def test_the_engine_writes_one_by_one_what_it_writes_as_a_job(build, prompts):
    engine = build(weights="int8", alone=True)
    assert isinstance(engine._rows["one"][0], PackedRow)
    job = tokens(engine.generate(prompts[:6]))
    same = sum(tokens(engine.generate([prompt])) == [own] for prompt, own in zip(prompts, job, strict=False))
    assert same >= 5  # a job's vectors are rounded: near ties may fall otherwise
