"""How texts flow through the rows of the compiled engine, and what it does where memory ends."""

import itertools
import weakref

import pytest
import torch
from rows import tokens

from udaciheadline.engines.compiled import loop as module
from udaciheadline.engines.compiled.rows import Rows

# -- the flow of a job -----------------------------------------------------------------------------------------------


def test_no_prompts_give_no_headlines(build):
    assert build().generate([]) == []
    assert build().generate([], batch_size=4) == []


def test_prompts_in_tokens_get_the_same_tokens_and_no_text(build, prompts, expected):
    engine = build()
    generations = engine.generate_from(engine.texts.encode(prompts[:3]), 2)
    assert tokens(generations) == expected[:3]
    assert [g.headline for g in generations] == [""] * 3
    assert engine.generate_from([]) == []


def test_more_rows_than_prompts_are_not_made(build, prompts, expected):
    generations = build().generate(prompts[:3], batch_size=50)
    assert tokens(generations) == expected[:3]
    assert {g.batch_size for g in generations} == {3}


def test_without_a_batch_size_all_prompts_are_worked_on_at_once(build, prompts, expected):
    generations = build().generate(prompts[:10])
    assert tokens(generations) == expected[:10]
    assert {g.batch_size for g in generations} == {10}


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


@pytest.mark.parametrize("rows", ["plain", "graphed"])
def test_few_steps_are_spent_on_rows_whose_text_has_ended(build, prompts, expected, calls, rows, request):
    if rows == "graphed":
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
    build, prompts, expected, monkeypatch, fitting
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


def test_memory_that_suffices_for_one_alone_is_used_one_by_one(build, prompts, expected):
    engine = build()
    asked = limit(engine, 1)
    generations = engine.generate(prompts[:4])
    assert asked == [4, 2, 1]
    assert {g.batch_size for g in generations} == {1}
    assert tokens(generations) == expected[:4]


def test_with_one_prompt_at_a_time_the_error_goes_through(build, prompts):
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
