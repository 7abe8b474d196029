"""The rows of the compiled engine: their cache, their graphs on CUDA, their compilers and threads."""

import gc
import weakref

import pytest
import torch
from rows import tokens

from udaciheadline.checkpoints.models import load_model
from udaciheadline.engines.compiled import CompiledEngine, graphs
from udaciheadline.engines.compiled import loop as module
from udaciheadline.engines.compiled.graphs import GraphedRow, GraphedRows
from udaciheadline.engines.compiled.loop import MAX_LENGTH
from udaciheadline.engines.compiled.rows import PackedRow, Rows
from udaciheadline.records import UsageError

LENGTH = 25  # max_new_tokens of the engines in conftest.py


# -- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_no_step_is_launched_that_no_text_can_need(build, prompts, calls, graphed, count):
    engine = build(max_new_tokens=4)
    engine._lag = 1
    engine._ending.eos = frozenset()
    assert {len(row) for row in tokens(engine.generate(prompts[:count]))} == {4}
    assert len(calls.steps) == 3


def test_a_text_that_is_too_long_is_refused_in_one_sentence_with_both_numbers(build, tokenizer):
    prompt = "word " * MAX_LENGTH
    count = len(tokenizer(prompt)["input_ids"])
    reason = (
        f"article 2: its prompt of {count} tokens and the 25 of a headline are more than the {MAX_LENGTH} that the "
        "compiled engine takes: cut the article"
    )
    with pytest.raises(UsageError, match=f"^{reason}$"):
        build().generate(["short", prompt])


def test_a_text_may_be_as_long_as_is_allowed_and_not_a_token_longer(build, prompts, tokenizer, monkeypatch):
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in prompts[:2])
    monkeypatch.setattr(module, "MAX_LENGTH", longest + LENGTH)
    assert len(build().generate(prompts[:2])) == 2
    monkeypatch.setattr(module, "MAX_LENGTH", longest + LENGTH - 1)
    with pytest.raises(UsageError):
        build().generate(prompts[:2])


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "together"])
def test_a_prompt_longer_than_the_cache_gets_a_longer_one(build, reference, prompts, expected, count):
    engine = build(alone=count == 1)
    kind = "one" if count == 1 else "many"
    assert tokens(engine.generate(prompts[:count])) == expected[:count]
    first = engine._rows[kind][0]
    long = [" ".join(prompts[:8]), " ".join(prompts[8:14])][:count]
    generations = engine.generate(long)
    assert tokens(generations) == tokens(reference.generate(long))
    longer = engine._rows[kind][0]
    assert first.slots <= 128 < generations[0].prompt_tokens + LENGTH <= longer.slots
    assert tokens(engine.generate(prompts[:count])) == expected[:count]
    assert engine._rows[kind][0] is longer


def test_a_cache_is_gone_before_its_successor_is_made(build, prompts, monkeypatch):
    engine = build()
    make, caches, alive = engine._model.cache, [], []

    def cache(rows, slots):
        alive.append(sum(tensor() is not None for tensor in caches))
        made = make(rows, slots)
        caches.append(weakref.ref(made[0][0]))
        return made

    monkeypatch.setattr(engine._model, "cache", cache)
    for count in (4, 6, 5):
        engine.generate(prompts[:count])
    assert alive == [0, 0, 0]


# -- the rows of CUDA ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 1])
def test_with_graphs_the_tokens_of_a_job_are_the_same(build, prompts, expected, graphed, lag):
    engine = build()
    engine._lag = lag
    for count, rows in ((40, 16), (20, 10), (5, 2)):
        assert tokens(engine.generate(prompts[:count], batch_size=rows)) == expected[:count]
        assert isinstance(engine._rows["many"][0], GraphedRows)


@pytest.mark.parametrize("lag", [0, 1])
def test_with_graphs_the_tokens_of_a_lone_prompt_are_the_same(build, prompts, expected, graphed, lag):
    engine = build()
    engine._lag = lag
    assert [engine.generate([prompt])[0].token_ids for prompt in prompts[:12]] == expected[:12]
    assert tokens(engine.generate(prompts[:5], batch_size=1)) == expected[:5]
    assert isinstance(engine._rows["one"][0], GraphedRow)


def test_a_step_is_captured_for_numbers_of_rows_that_halve_and_rows_close_ranks_to_them(build, prompts, graphed, calls):
    engine = build()
    engine.generate(prompts[:100], batch_size=64)
    assert len(graphed) == 4
    assert list(dict.fromkeys(calls.steps)) == [64, 32, 16, 8]
    assert calls.steps == sorted(calls.steps, reverse=True)
    rows = engine._rows["many"][0]
    assert [rows.fitting(count) for count in (64, 33, 32, 17, 8, 1)] == [64, 64, 32, 32, 8, 8]


def test_lone_prompts_share_a_graph_where_their_lengths_round_up_to_the_same(build, prompts, graphed):
    engine = build()
    generations = [engine.generate([prompt])[0] for prompt in (*prompts[:8], "A few words", *prompts[8:12])]
    buckets = {-(-g.prompt_tokens // graphs.PROMPT_BUCKET) for g in generations}
    assert len(buckets) > 1
    assert len(graphed) == len(buckets) + 1  # the step


# -- compilers and threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (RuntimeError("Failed to find C compiler.\nPlease specify via CC"), "Failed to find C compiler."),
        (AssertionError(), "AssertionError"),
    ],
)
def test_where_compiling_fails_the_error_names_the_compiler(build, graphed, monkeypatch, cause, reason):
    def fail(*_):
        raise torch._dynamo.exc.BackendCompilerFailed("inductor", cause, None)

    monkeypatch.setattr(GraphedRow, "prefill", fail)
    expected = rf"torch.compile failed \({reason}\): it needs a C compiler and the headers of Python \(python3-dev\)"
    with pytest.raises(UsageError, match=f"^{expected}$"):
        build(alone=True)


@pytest.mark.parametrize(
    ("thread_reads", "alone"),
    [(8 * 2**20, 1), (2 * 2**20, 2), (2**16, 8)],
    ids=["a small model", "a larger one", "a large one"],
)
def test_a_lone_prompt_has_threads_by_the_models_size_and_a_batch_has_all(
    build, prompts, monkeypatch, thread_reads, alone
):
    threads = []
    monkeypatch.setattr(module, "THREAD_BYTES", thread_reads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    engine = build()
    for count in (1, 3, 1):
        engine.generate(prompts[:count])
    assert threads == [alone, 8, alone]


def test_one_prompt_is_ready_when_the_engine_is_and_only_where_that_is_asked_for(build):
    assert "one" in build(alone=True)._rows
    assert build(alone=False)._rows == {}


def test_in_float16_one_prompt_has_plain_rows_on_a_cpu(main_checkpoint, tokenizer, prompts):
    model = load_model(str(main_checkpoint), device="cpu", dtype="float16")
    engine = CompiledEngine(model, tokenizer, max_new_tokens=LENGTH)
    assert engine.generate(prompts[:1])[0].headline
    assert type(engine._rows["one"][0]) is Rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_prompt_has_a_row_in_our_own_code_on_a_cpu_and_nothing_is_compiled(
    main_checkpoint, tokenizer, monkeypatch, dtype
):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    model = load_model(str(main_checkpoint), device="cpu", dtype=dtype)
    engine = CompiledEngine(model, tokenizer, max_new_tokens=LENGTH)
    assert type(engine._rows["one"][0]) is PackedRow
    assert compiled == []


def test_an_engine_for_jobs_has_plain_rows_on_a_cpu_even_for_a_single_article(build, prompts, expected):
    engine = build(alone=False)
    assert tokens(engine.generate(prompts[:5])) == expected[:5]
    assert tokens(engine.generate(prompts[:1])) == expected[:1]
    assert type(engine._rows["one"][0]) is Rows


def test_close_lets_go_of_the_model(build, prompts):
    engine = build()
    engine.generate(prompts[:2])
    model = weakref.ref(engine._model)
    engine.close()
    gc.collect()
    assert model() is None
