"""The compiled engine with the embedded main model in float32 on the CPU, and its CUDA rows with graphs that are faked.

Only the `engine` fixture compiles, once. The other engines work on batches, which are not compiled on a CPU, or have
torch.compile and its loop replaced by what they mean.
"""

import gc
import itertools
import json
import weakref
from types import SimpleNamespace

import pytest
import torch

from udaciheadline import measure, newswire
from udaciheadline.engines import _graphs, _rows, _step
from udaciheadline.engines import compiled as module
from udaciheadline.engines._graphs import GraphedRow, GraphedRows
from udaciheadline.engines._rows import CompiledRow, Rows
from udaciheadline.engines.compiled import MAX_LENGTH, CompiledEngine
from udaciheadline.engines.transformers import TransformersEngine
from udaciheadline.models import load_model
from udaciheadline.prompts import extract_headline, prompt_for
from udaciheadline.records import Unsupported, UsageError

EOS = 1
LENGTH = 25
BATCH = 64


def load(checkpoint):
    """A model of its own: an engine takes the weights over."""
    return load_model(str(checkpoint), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    """Of all 1,000 evaluation articles."""
    return [prompt_for(article.short_description) for article in newswire.evaluation_articles()]


@pytest.fixture(scope="module")
def reference(main_checkpoint, tokenizer):
    return TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def expected(reference, prompts):
    """The tokens of all prompts, by transformers."""
    return tokens(reference.generate(prompts, batch_size=BATCH))


@pytest.fixture(scope="module")
def engine(main_checkpoint, tokenizer):
    """Ready for one prompt at a time, with real compiled programs."""
    return CompiledEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def one_by_one(engine, prompts):
    """The generations of all prompts, one call each."""
    return [engine.generate([prompt])[0] for prompt in prompts]


@pytest.fixture(scope="module")
def job(engine, prompts):
    """The generations of all prompts in one call, so many at a time that rows are used again and again."""
    return engine.generate(prompts, batch_size=BATCH)


@pytest.fixture
def build(main_checkpoint, tokenizer):
    """Makes an engine that has compiled nothing yet."""

    def build(checkpoint=main_checkpoint, **options):
        options = {"max_new_tokens": LENGTH, "alone": False} | options
        return CompiledEngine(load(checkpoint), tokenizer, **options)

    return build


@pytest.fixture
def uncompiled(monkeypatch):
    """Functions stay as they are, and a loop is one of Python's."""

    def loop(unfinished, body, state):
        while unfinished(*state):
            state = body(*state)
        return state

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(_rows, "while_loop", loop)


@pytest.fixture
def graphed(uncompiled, monkeypatch):
    """Rows are those of CUDA. A graph runs its function again, whose tensors stay where they are; the list returned
    holds the number of captures so far."""
    captures = []

    def capture(function, *_):
        captures.append(function)
        return function

    def step(model, cache, last, place, _peers):
        """What the kernels do (tests/test_kernels.py)."""

        def call():
            last.copy_(model.decode(last, place, cache).argmax(-1))
            place.add_(1)

        return call

    monkeypatch.setattr(_graphs, "capture", capture)
    monkeypatch.setattr(_step, "Step", step)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(module, "Rows", GraphedRows)
    monkeypatch.setattr(module, "CompiledRow", lambda model, slots, *_: GraphedRow(model, slots))
    return captures


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the rows: the lengths of prompts that were read together, and the rows of each step."""
    noted = SimpleNamespace(read=[], steps=[])
    for kind in (Rows, GraphedRow, GraphedRows):
        monkeypatch.setattr(kind, "advance", spying(kind.advance, noted.steps))
    monkeypatch.setattr(Rows, "prefill", spying(Rows.prefill, noted.read, lambda prompts: [len(p) for p in prompts]))
    return noted


def spying(method, noted, what=lambda first: first):
    def spy(self, first, *others):
        noted.append(what(first))
        return method(self, first, *others)

    return spy


def tokens(generations):
    return [generation.token_ids for generation in generations]


# -- the same tokens -------------------------------------------------------------------------------------------------


def test_one_at_a_time_all_headlines_are_those_of_transformers_token_by_token(one_by_one, expected):
    assert len(expected) == 1000
    assert tokens(one_by_one) == expected


def test_as_one_job_all_headlines_are_those_of_transformers_token_by_token(job, expected):
    assert tokens(job) == expected


def test_transformers_writes_the_same_when_it_works_alone(reference, prompts, one_by_one):
    for prompt, generation in zip(prompts[:20], one_by_one, strict=False):
        (other,) = reference.generate([prompt])
        assert (other.token_ids, other.headline) == (generation.token_ids, generation.headline)


def test_two_programs_serve_prompts_of_every_length(one_by_one, prompts, tokenizer):
    assert len({generation.prompt_tokens for generation in one_by_one}) > 30
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= 3  # the loop's body may count as one of its own


@pytest.mark.parametrize("kind", ["one_by_one", "job"])
def test_the_tokens_end_with_the_end_of_sequence_and_nothing_follows_it(request, kind):
    rows = tokens(request.getfixturevalue(kind))
    assert len({len(row) for row in rows}) > 10
    assert all(row.count(EOS) == 1 and row[-1] == EOS for row in rows)


def test_the_headline_is_what_the_tokens_say(job, tokenizer):
    assert [g.headline for g in job] == [extract_headline(tokenizer.decode(g.token_ids[:-1])) for g in job]


def test_likelihood_is_that_of_transformers(build, reference, prompts, news):
    headlines = [article.headline for article in news]
    theirs = reference.likelihood(prompts[: len(news)], headlines)
    assert build().likelihood(prompts[: len(news)], headlines) == pytest.approx(theirs, rel=1e-4)


# -- what it says of a call ------------------------------------------------------------------------------------------


def test_the_first_token_is_there_before_the_last(one_by_one, job):
    assert all(0 < g.first_token_seconds <= g.seconds for g in (*one_by_one, *job))


def test_the_prompts_of_a_job_share_its_seconds_and_those_that_waited_have_their_first_token_later(job):
    assert len({g.seconds for g in job}) == 1
    assert len({g.first_token_seconds for g in job}) >= len(job) / BATCH
    longest, shortest = max(job, key=lambda g: g.prompt_tokens), min(job, key=lambda g: g.prompt_tokens)
    assert longest.first_token_seconds < job[0].seconds / 4 < job[0].seconds / 2 < shortest.first_token_seconds


def test_times_are_those_of_the_work_on_the_rows(build, prompts, monkeypatch):
    clock = SimpleNamespace(seconds=100)

    def ticking(method):
        def tick(*args):
            clock.seconds += 1
            return method(*args)

        return tick

    engine = build()
    monkeypatch.setattr(Rows, "advance", ticking(Rows.advance))
    monkeypatch.setattr(Rows, "prefill", ticking(Rows.prefill))
    monkeypatch.setattr(measure, "now", lambda device: clock.seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    generations = engine.generate(prompts[:4])
    steps = max(len(g.token_ids) for g in generations)
    assert {(g.seconds, g.first_token_seconds) for g in generations} == {(steps, 1)}


def test_it_says_how_many_prompts_were_worked_on_at_a_time_and_how_long_each_was(one_by_one, job, prompts, tokenizer):
    assert {g.batch_size for g in one_by_one} == {1}
    assert {g.batch_size for g in job} == {BATCH}
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    assert [g.prompt_tokens for g in one_by_one] == [g.prompt_tokens for g in job] == lengths


def test_weights_are_counted_as_with_transformers(build, reference):
    info = build(details={"sparsity": 0.5}).info
    for count in ("parameters", "head_parameters"):
        assert getattr(info, count) == getattr(reference.info, count)
    assert info.layer_parameters == pytest.approx(reference.info.layer_parameters, rel=1e-3)  # the last norm
    assert info.weights_bytes == info.pass_bytes == 4 * info.parameters  # its head is the embedding
    assert info.details == {"sparsity": 0.5}


# -- how long a headline gets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5, 12])
@pytest.mark.parametrize("count", [1, 8], ids=["alone", "together"])
@pytest.mark.parametrize("rows", ["uncompiled", "graphed"])
def test_no_headline_has_more_than_max_new_tokens(build, prompts, expected, length, count, rows, request):
    request.getfixturevalue(rows)
    engine = build(max_new_tokens=length)
    found = [row for start in range(0, 8, count) for row in tokens(engine.generate(prompts[start : start + count]))]
    assert found == [row[:length] for row in expected[:8]]


@pytest.mark.parametrize("count", [1, 8], ids=["alone", "together"])
def test_each_of_several_ends_of_sequence_ends_a_headline(build, main_copy, prompts, expected, count, uncompiled):
    early = expected[0][3]
    (main_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, early]}))
    engine = build(main_copy)
    found = [row for start in range(0, 8, count) for row in tokens(engine.generate(prompts[start : start + count]))]
    assert found == [row[: row.index(early) + 1] if early in row else row for row in expected[:8]]
    assert len(found[0]) == 4


def test_a_headline_may_end_with_its_first_token(build, main_copy, prompts, expected, uncompiled):
    (main_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, expected[0][0]]}))
    engine = build(main_copy)
    assert tokens(engine.generate(prompts[:1])) == [expected[0][:1]]
    assert tokens(engine.generate([prompts[0]] * 4, batch_size=2)) == [expected[0][:1]] * 4


# -- the flow of a job -----------------------------------------------------------------------------------------------


def test_no_prompts_give_no_headlines(build):
    assert build().generate([]) == []
    assert build().generate([], batch_size=4) == []


def test_more_rows_than_prompts_are_not_made(build, prompts, expected):
    generations = build().generate(prompts[:3], batch_size=50)
    assert tokens(generations) == expected[:3]
    assert {g.batch_size for g in generations} == {3}


def test_without_a_batch_size_all_prompts_are_worked_on_at_once(build, prompts, expected):
    generations = build().generate(prompts[:10])
    assert tokens(generations) == expected[:10]
    assert {g.batch_size for g in generations} == {10}


def test_a_job_of_one_prompt_at_a_time_goes_through_the_single_row(engine, prompts, expected, monkeypatch):
    made = []
    monkeypatch.setattr(CompiledRow, "advance", spying(CompiledRow.advance, made))
    generations = engine.generate(prompts[:6], batch_size=1)
    assert tokens(generations) == expected[:6]
    assert {g.batch_size for g in generations} == {1}
    assert made == [1] * 6


def test_the_longest_prompts_are_read_first_and_headlines_come_in_the_order_of_the_prompts(
    build, prompts, expected, calls
):
    assert tokens(build().generate(prompts[:40], batch_size=8)) == expected[:40]
    lengths = list(itertools.chain(*calls.read))
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 40
    assert len(calls.read) > 5


def test_prompts_read_together_have_no_more_tokens_than_is_set_their_padding_included(
    build, prompts, expected, calls, monkeypatch
):
    monkeypatch.setitem(module.PREFILL_TOKENS, "cpu", 200)
    assert tokens(build().generate(prompts[:20])) == expected[:20]
    assert all(len(group) * max(group) <= 200 for group in calls.read)
    assert all((len(group) + 1) * max(group) > 200 for group in calls.read[:-1])


def test_a_prompt_longer_than_is_ever_read_together_is_read_alone(build, prompts, expected, calls, monkeypatch):
    monkeypatch.setitem(module.PREFILL_TOKENS, "cpu", 1)
    assert tokens(build().generate(prompts[:4])) == expected[:4]
    assert [len(group) for group in calls.read] == [1] * 4


@pytest.mark.parametrize("rows", ["uncompiled", "graphed"])
def test_few_steps_are_spent_on_rows_whose_text_has_ended(build, prompts, expected, calls, rows, request):
    request.getfixturevalue(rows)
    generations = build().generate(prompts[:200], batch_size=32)
    assert tokens(generations) == expected[:200]
    needed = sum(len(row) - 1 for row in expected[:200])  # the first token comes with the prompt
    order = sorted(generations, key=lambda g: g.prompt_tokens, reverse=True)
    batches = [order[start : start + 32] for start in range(0, 200, 32)]
    fixed = sum(len(batch) * (max(len(g.token_ids) for g in batch) - 1) for batch in batches)
    assert needed <= sum(calls.steps) < 1.3 * needed
    assert sum(calls.steps) < 0.9 * fixed


def test_tokens_that_are_looked_at_a_step_late_are_the_same(build, prompts, expected, calls):
    steps = []
    for lag in (0, 1):
        engine = build()
        engine._lag = lag
        calls.steps.clear()
        for count, rows in ((60, 16), (7, 2)):
            assert tokens(engine.generate(prompts[:count], batch_size=rows)) == expected[:count]
        steps.append(sum(calls.steps))
    assert steps[0] < steps[1]


# -- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_no_step_is_launched_that_no_text_can_need(build, prompts, calls, graphed, count):
    engine = build(max_new_tokens=4)
    engine._lag = 1
    engine._ends = set()
    assert {len(row) for row in tokens(engine.generate(prompts[:count]))} == {4}
    assert len(calls.steps) == 3


def test_a_text_that_is_too_long_is_refused_in_one_sentence_with_both_numbers(build, tokenizer):
    prompt = "word " * MAX_LENGTH
    count = len(tokenizer(prompt)["input_ids"])
    reason = (
        f"a prompt of {count} tokens and 25 new ones: the compiled engine takes texts of at most {MAX_LENGTH} tokens: "
        "use --engine transformers, or cut the article"
    )
    with pytest.raises(UsageError, match=f"^{reason}$"):
        build().generate(["short", prompt])


def test_a_text_may_be_as_long_as_is_allowed_and_not_a_token_longer(build, prompts, tokenizer, monkeypatch):
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in prompts[:2])
    monkeypatch.setattr(module, "MAX_LENGTH", longest + LENGTH)
    engine = build()
    assert len(engine.generate(prompts[:2])) == 2
    monkeypatch.setattr(module, "MAX_LENGTH", longest + LENGTH - 1)
    with pytest.raises(UsageError):
        engine.generate(prompts[:2])


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "together"])
def test_a_prompt_longer_than_the_cache_gets_a_longer_one(build, reference, prompts, expected, count, uncompiled):
    engine = build()
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


# -- memory that does not suffice ------------------------------------------------------------------------------------


def limit(engine, rows, error=torch.OutOfMemoryError, message="CUDA out of memory"):
    """Lets a cache of more than so many rows fail; the list returned holds the rows that were asked for."""
    make, asked = engine._model.cache, []

    def cache(count, slots):
        asked.append(count)
        if count > rows:
            raise error(message)
        return make(count, slots)

    engine._model.cache = cache
    return asked


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory"),
        (MemoryError, ""),
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_where_memory_does_not_suffice_half_as_many_are_worked_on_and_half_again(
    build, prompts, expected, error, message
):
    engine = build()
    asked = limit(engine, 7, error, message)
    generations = engine.generate(prompts[:24])
    assert asked == [24, 12, 6]
    assert {g.batch_size for g in generations} == {6}
    assert tokens(generations) == expected[:24]


@pytest.mark.parametrize("fitting", [4, 1])
def test_memory_that_ends_in_the_middle_of_a_job_starts_it_anew_without_the_tensors_of_the_first_try(
    build, prompts, expected, uncompiled, monkeypatch, fitting
):
    engine = build()
    make, advance, caches, alive = engine._model.cache, Rows.advance, [], []

    def cache(rows, slots):
        alive.append(sum(tensor() is not None for tensor in caches))
        made = make(rows, slots)
        caches.append(weakref.ref(made[0][0]))
        return made

    def limited(self, count):
        if self.count > fitting and int(self._place.max()) > 70:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return advance(self, count)

    monkeypatch.setattr(engine._model, "cache", cache)
    monkeypatch.setattr(Rows, "advance", limited)
    generations = engine.generate(prompts[:16])
    assert {g.batch_size for g in generations} == {fitting}
    assert tokens(generations) == expected[:16]
    assert alive == [0] * (3 if fitting == 4 else 5)


def test_memory_that_suffices_for_one_alone_is_used_one_by_one(build, prompts, expected, uncompiled):
    engine = build()
    asked = limit(engine, 1)
    generations = engine.generate(prompts[:4])
    assert asked == [4, 2, 1]
    assert {g.batch_size for g in generations} == {1}
    assert tokens(generations) == expected[:4]


def test_with_one_prompt_at_a_time_the_error_goes_through(build, prompts, uncompiled):
    engine = build()
    asked = limit(engine, 0)
    with pytest.raises(torch.OutOfMemoryError):
        engine.generate(prompts[:4])
    assert asked == [4, 2, 1]


def test_an_error_that_is_not_about_memory_goes_through_at_once(build, prompts):
    engine = build()
    asked = limit(engine, 0, RuntimeError, "shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.generate(prompts[:4])
    assert asked == [4]


# -- the rows of CUDA ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 1])
def test_with_graphs_the_tokens_of_a_job_are_the_same(build, prompts, expected, graphed, lag):
    engine = build()
    engine._lag = lag
    for count, rows in ((100, 64), (40, 20), (5, 2)):
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
    buckets = {-(-g.prompt_tokens // _graphs.PROMPT_BUCKET) for g in generations}
    assert len(buckets) > 1
    assert len(graphed) == len(buckets) + 1  # the step


# -- compilers and threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (RuntimeError("No working C++ compiler found\nin the path"), "No working C++ compiler found"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_where_compiling_fails_the_error_names_the_compiler(build, monkeypatch, cause, reason):
    def fail(*_):
        raise torch._dynamo.exc.BackendCompilerFailed("inductor", cause, None)

    monkeypatch.setattr(CompiledRow, "prefill", fail)
    expected = rf"torch.compile failed \({reason}\): on a CPU it needs g\+\+ and the headers of Python \(python3-dev\)"
    with pytest.raises(UsageError, match=f"^{expected.replace('C++', 'C[+][+]')}$"):
        build(alone=True)


@pytest.mark.parametrize(
    ("thread_reads", "alone"),
    [(8 * 2**20, 1), (2 * 2**20, 2), (2**16, 8)],
    ids=["a small model", "a larger one", "a large one"],
)
def test_a_lone_prompt_has_threads_by_the_models_size_and_a_batch_has_all(
    build, prompts, uncompiled, monkeypatch, thread_reads, alone
):
    threads = []
    monkeypatch.setattr(module, "THREAD_BYTES", thread_reads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    engine = build()
    for count in (1, 3, 1):
        engine.generate(prompts[:count])
    assert threads == [alone, 8, alone]


def test_one_prompt_is_ready_when_the_engine_is_and_only_where_that_is_asked_for(build, uncompiled):
    assert "one" in build(alone=True)._rows
    assert build(alone=False)._rows == {}


def test_a_model_of_too_many_layers_to_compile_on_a_cpu_is_unsupported_one_article_at_a_time(build, monkeypatch):
    monkeypatch.setattr(module, "CPU_LAYERS", 3)
    with pytest.raises(Unsupported, match=r"4 layers would take minutes to compile on a CPU.*limit is 3 layers"):
        build(alone=True)


def test_such_a_model_still_does_jobs_even_of_a_single_article(build, prompts, expected, monkeypatch):
    monkeypatch.setattr(module, "CPU_LAYERS", 3)
    engine = build(alone=False)
    assert tokens(engine.generate(prompts[:5])) == expected[:5]
    assert tokens(engine.generate(prompts[:1])) == expected[:1]
    assert not isinstance(engine._rows["one"][0], CompiledRow)


def test_close_lets_go_of_the_model(build, prompts):
    engine = build()
    engine.generate(prompts[:2])
    model = weakref.ref(engine._model)
    engine.close()
    gc.collect()
    assert model() is None
