"""What the compiled engine writes, and what it says of it."""

import json
from types import SimpleNamespace

import pytest
from rows import tokens
from spies import spying

from udaciheadline.data.prompts import extract_headline
from udaciheadline.engines.compiled import loop as module
from udaciheadline.engines.compiled.rows import PackedRow, Rows

EOS = 1
BATCH = 64  # of the `job` in conftest.py


# -- the same tokens -------------------------------------------------------------------------------------------------


def test_one_at_a_time_all_headlines_are_those_of_transformers_token_by_token(one_by_one, expected):
    assert len(expected) == 400
    assert tokens(one_by_one) == expected


def test_as_one_job_all_headlines_are_those_of_transformers_token_by_token(job, expected):
    assert tokens(job) == expected


def test_transformers_writes_the_same_when_it_works_alone(reference, prompts, one_by_one):
    for prompt, generation in zip(prompts[:20], one_by_one, strict=False):
        (other,) = reference.generate([prompt])
        assert (other.token_ids, other.headline) == (generation.token_ids, generation.headline)


def test_a_job_of_one_prompt_at_a_time_goes_through_the_single_row(engine, prompts, expected, monkeypatch):
    made = []
    monkeypatch.setattr(PackedRow, "advance", spying(PackedRow.advance, made))
    generations = engine.generate(prompts[:6], batch_size=1)
    assert tokens(generations) == expected[:6]
    assert {g.batch_size for g in generations} == {1}
    assert made == [1] * 6


@pytest.mark.parametrize("kind", ["one_by_one", "job"])
def test_the_tokens_end_with_the_end_of_sequence_and_nothing_follows_it(request, kind):
    rows = tokens(request.getfixturevalue(kind))
    assert len({len(row) for row in rows}) > 10
    assert all(row.count(EOS) == 1 and row[-1] == EOS for row in rows)


def test_the_headline_is_what_the_tokens_say(job, tokenizer):
    assert [g.headline for g in job] == [extract_headline(tokenizer.decode(g.token_ids[:-1])) for g in job]


def test_likelihood_is_that_of_transformers(build, reference, prompts, news):
    headlines = [article.headline for article in news]
    theirs = reference.texts.likelihood(prompts[: len(news)], headlines)
    assert build().texts.likelihood(prompts[: len(news)], headlines) == pytest.approx(theirs, rel=1e-4)


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
    monkeypatch.setattr(module, "now", lambda device: clock.seconds)
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
@pytest.mark.parametrize("rows", ["packed", "graphed"])
def test_no_headline_has_more_than_max_new_tokens(build, prompts, expected, length, count, rows, request):
    if rows == "graphed":
        request.getfixturevalue(rows)
    engine = build(max_new_tokens=length, alone=rows == "packed")
    found = [row for start in range(0, 8, count) for row in tokens(engine.generate(prompts[start : start + count]))]
    assert found == [row[:length] for row in expected[:8]]


@pytest.mark.parametrize("count", [1, 8], ids=["alone", "together"])
def test_each_of_several_ends_of_sequence_ends_a_headline(build, main_copy, prompts, expected, count):
    early = expected[0][3]
    (main_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, early]}))
    engine = build(main_copy, alone=count == 1)
    found = [row for start in range(0, 8, count) for row in tokens(engine.generate(prompts[start : start + count]))]
    assert found == [row[: row.index(early) + 1] if early in row else row for row in expected[:8]]
    assert len(found[0]) == 4


def test_a_headline_may_end_with_its_first_token(build, main_copy, prompts, expected):
    (main_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, expected[0][0]]}))
    engine = build(main_copy, alone=True)
    assert tokens(engine.generate(prompts[:1])) == [expected[0][:1]]
    assert tokens(engine.generate([prompts[0]] * 4, batch_size=2)) == [expected[0][:1]] * 4
