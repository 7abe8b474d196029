"""Drafted tokens on the compiled engine: whatever is drafted, the headlines are those of plain greedy decoding."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from random_models import of_family
from rows import tokens

from conftest import load
from udaciheadline.data import newswire
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.compiled import CompiledEngine, speculation
from udaciheadline.engines.compiled import loop as module
from udaciheadline.engines.compiled.drafts import MOST_DRAFTS, NOTHING, ModelDrafts, TextDrafts, look_up
from udaciheadline.engines.compiled.rows import REJECTED, PackedRow
from udaciheadline.engines.compiled.speculation import (
    Choice,
    DraftedRow,
    GraphedDrafts,
    accept,
)
from udaciheadline.records import UsageError

LENGTH = 25
SAMPLES = [prompt_for(article.short_description) for article in newswire.training_articles(2, seed=1)]


@pytest.fixture
def of(monkeypatch):
    """Has so many tokens drafted at a time, whatever is fastest here."""

    def of(k):
        monkeypatch.setattr(module, "best_k", lambda *_: Choice(k, 1.0, max(k, 1), 1.0))
        monkeypatch.setattr(DraftedRow, "seconds", lambda *_: 1.0)

    return of


@pytest.fixture
def on_cuda(monkeypatch, graphed):
    """Rows are those of CUDA; of their captures, and of how many tokens were drafted in each launch, a list."""
    launched = []

    def launch(self, k):
        launched.append(k)
        return self._replays[k]()

    monkeypatch.setattr(speculation, "capture", lambda function, _: function)
    monkeypatch.setattr(module, "drafted_row", GraphedDrafts)
    monkeypatch.setattr(GraphedDrafts, "_launch", launch)
    return launched


@pytest.fixture
def drafted(tokenizer):
    """An engine on a model, with a drafter, and the tokens that it writes without one."""

    def drafted(model, drafter, prompts, **options):
        options = {"max_new_tokens": LENGTH} | options
        plain = CompiledEngine(copy.deepcopy(model), tokenizer, alone=False, **options)
        engine = CompiledEngine(model, tokenizer, drafter=drafter, samples=SAMPLES, **options)
        return engine, tokens(plain.generate(prompts))

    return drafted


def alone(engine, prompts):
    return [engine.generate([prompt])[0] for prompt in prompts]


def random(tokenizer, seed=0, **changes):
    """A model that repeats itself little."""
    source = of_family("llama", vocab_size=len(tokenizer), **changes)
    with torch.no_grad():
        torch.manual_seed(seed)
        for weight in source.parameters():
            weight += torch.randn_like(weight) * 0.05
    return source


# -- the same tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, MOST_DRAFTS])
def test_drafted_for_by_the_small_model_the_large_one_writes_its_own_tokens(
    of, drafted, main_checkpoint, target_checkpoint, prompts, k
):
    of(k)
    engine, expected = drafted(load(target_checkpoint), ModelDrafts(load(main_checkpoint)), prompts[:20])
    made = alone(engine, prompts[:20])
    assert tokens(made) == expected
    assert 0 < sum(g.accepted for g in made) < sum(g.drafted for g in made)


@pytest.mark.parametrize("k", [1, 4])
def test_drafted_from_the_text_a_model_writes_its_own_tokens(of, drafted, main_checkpoint, prompts, k):
    of(k)
    engine, expected = drafted(load(main_checkpoint), TextDrafts(), prompts[:40])
    made = alone(engine, prompts[:40])
    assert tokens(made) == expected
    assert 0 < sum(g.accepted for g in made) < sum(g.drafted for g in made)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("kind", [ModelDrafts, TextDrafts])
def test_with_graphs_the_tokens_are_the_same(
    of, drafted, on_cuda, main_checkpoint, target_checkpoint, prompts, kind, lag
):
    of(3)
    drafter = TextDrafts() if kind is TextDrafts else ModelDrafts(load(main_checkpoint))
    engine, expected = drafted(load(target_checkpoint), drafter, prompts[:20])
    engine._lag = lag
    on_cuda.clear()
    assert tokens(alone(engine, prompts[:20])) == expected
    assert set(on_cuda) == ({0, 3} if kind is TextDrafts else {3})


def test_a_job_is_written_without_drafts(of, drafted, main_checkpoint, prompts):
    of(3)
    engine, expected = drafted(load(main_checkpoint), TextDrafts(), prompts[:5])
    made = engine.generate(prompts[:5], batch_size=3)
    assert tokens(made) == expected
    assert {(g.drafted, g.accepted) for g in made} == {(0, 0)}


# -- what is accepted ------------------------------------------------------------------------------------------------


def test_a_model_that_drafts_for_itself_is_right_at_every_place(of, drafted, tokenizer, prompts):
    of(4)
    source = random(tokenizer)
    engine, expected = drafted(copy.deepcopy(source), ModelDrafts(source), prompts[:6], max_new_tokens=26)
    for made, own in zip(alone(engine, prompts[:6]), expected, strict=True):
        rounds = -(-(len(own) - 1) // 5)  # the first token is the prompt's
        assert made.token_ids == own
        assert made.drafted == 4 * rounds
        assert sum(made.accepted_at) == made.accepted >= len(own) - 1 - rounds


def test_a_model_that_always_errs_costs_a_round_a_token(of, drafted, tokenizer, prompts, monkeypatch):
    of(2)
    draft = ModelDrafts.draft
    monkeypatch.setattr(ModelDrafts, "draft", lambda *args: (draft(*args) + 1) % len(tokenizer))
    source = random(tokenizer)
    engine, expected = drafted(copy.deepcopy(source), ModelDrafts(source), prompts[:4])
    for made, own in zip(alone(engine, prompts[:4]), expected, strict=True):
        assert made.token_ids == own
        assert (made.drafted, made.accepted, made.accepted_at) == (2 * (len(own) - 1), 0, (0, 0))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_draft_that_goes_beyond_the_longest_headline_is_cut(of, drafted, tokenizer, prompts, length):
    of(MOST_DRAFTS)
    source = random(tokenizer)
    engine, expected = drafted(copy.deepcopy(source), ModelDrafts(source), prompts[:4], max_new_tokens=length)
    engine._ending.eos = engine._ending.breaks = frozenset()
    made = alone(engine, prompts[:4])
    assert tokens(made) == expected
    assert {len(g.token_ids) for g in made} == {length}


def test_a_headline_that_ends_within_a_draft_is_cut_there(of, drafted, tokenizer, prompts):
    of(MOST_DRAFTS)
    source = random(tokenizer)
    engine, expected = drafted(copy.deepcopy(source), ModelDrafts(source), prompts[:4], max_new_tokens=9)
    engine._ending.eos = {row[4] for row in expected}
    engine._ending.breaks = frozenset()
    cut = [row[: 1 + next(i for i, token in enumerate(row) if token in engine._ending.eos)] for row in expected]
    assert tokens(alone(engine, prompts[:4])) == cut


@pytest.mark.parametrize("spare", [0, 1])
def test_a_text_that_fills_its_slots_is_drafted_for_to_the_end(of, drafted, tokenizer, prompts, spare):
    of(MOST_DRAFTS)
    words = tokenizer(" ".join(prompts))["input_ids"][: module.SLOTS["one"] - LENGTH - spare]
    source = random(tokenizer)
    plain = CompiledEngine(copy.deepcopy(source), tokenizer, max_new_tokens=LENGTH, alone=False)
    engine, _ = drafted(copy.deepcopy(source), ModelDrafts(source), prompts[:1])
    for one in (engine, plain):
        one._ending.eos = one._ending.breaks = frozenset()
    assert tokens(engine.generate_from([words])) == tokens(plain.generate_from([words]))


def test_the_longest_text_that_is_allowed_is_drafted_for(of, drafted, tokenizer, prompts, monkeypatch):
    monkeypatch.setattr(module, "MAX_LENGTH", 128)
    of(MOST_DRAFTS)
    words = tokenizer(" ".join(prompts))["input_ids"][: 128 - LENGTH]
    source = random(tokenizer)
    engine, _ = drafted(copy.deepcopy(source), ModelDrafts(source), prompts[:1])
    engine._ending.eos = engine._ending.breaks = frozenset()
    assert len(engine.generate_from([words])[0].token_ids) == LENGTH


def test_a_text_may_be_as_long_as_the_draft_model_has_positions_for(of, drafted, tokenizer, prompts):
    of(2)
    short = ModelDrafts(random(tokenizer, max_position_embeddings=100))
    engine, _ = drafted(random(tokenizer), short, prompts[:1])
    with pytest.raises(UsageError, match="more than the 100 that the model has positions for"):
        engine.generate([" ".join(prompts[:4])])


# -- the text as a draft ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2], [3, 4, 5]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # the latest
        ([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], [3, 8, 1]),  # the longest
        ([5, 5, 5], [5, 5, 5]),  # on from the match again
        ([6, 7, 6, 7], [6, 7, 6]),
        ([1, 2, 3, 9, 2], [NOTHING] * 3),  # one token is none
        ([1, 2], [NOTHING] * 3),
    ],
)
def test_a_draft_is_what_stands_behind_the_latest_longest_match(text, expected):
    behind = torch.tensor([*text, 1, 2, 3, 4])
    assert look_up(behind, torch.tensor([len(text) - 1]), 3).tolist() == expected


def test_steps_are_launched_until_a_draft_is_found(of, drafted, on_cuda, main_checkpoint, prompts):
    of(3)
    engine, expected = drafted(load(main_checkpoint), TextDrafts(), prompts[:20])
    engine._lag = 0
    on_cuda.clear()
    made = alone(engine, prompts[:20])
    assert tokens(made) == expected
    assert on_cuda.count(3) == sum(g.drafted for g in made) // 3 > 0
    assert on_cuda.count(0) > on_cuda.count(3)


@pytest.mark.parametrize("kind", [ModelDrafts, TextDrafts])
def test_where_steps_are_faster_nothing_is_drafted_and_the_engine_is_the_plain_one(
    of, drafted, main_checkpoint, target_checkpoint, prompts, kind
):
    of(0)
    drafter = TextDrafts() if kind is TextDrafts else ModelDrafts(load(main_checkpoint))
    target = load(target_checkpoint)
    expected_parameters = target.num_parameters()
    engine, expected = drafted(target, drafter, prompts[:3])
    assert tokens(alone(engine, prompts[:3])) == expected
    assert type(engine._rows["one"][0]) is PackedRow
    assert engine.info.pass_bytes is not None
    assert engine.info.parameters == expected_parameters
    assert engine.info.details["draft_tokens"] == 0


def test_where_nothing_is_drafted_the_rows_that_were_timed_are_freed(
    of, on_cuda, main_checkpoint, target_checkpoint, tokenizer, monkeypatch
):
    """Even those that refer to themselves, as graphs do: memory is measured before anything else collects them."""
    of(0)
    rows = []

    def kept(*given):
        rows.append(weakref.ref(row := GraphedDrafts(*given)))
        row.itself = row
        return row

    monkeypatch.setattr(module, "drafted_row", kept)
    monkeypatch.setattr(module.CompiledEngine, "generate", lambda *_: gc.disable())  # what a build ends with
    try:
        drafter = ModelDrafts(load(main_checkpoint))
        CompiledEngine(load(target_checkpoint), tokenizer, max_new_tokens=2, drafter=drafter, samples=SAMPLES)
        assert [row() for row in rows] == [None]
    finally:
        gc.enable()


# -- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drafts", "best", "made", "last", "place"),
    [
        ([4, 5], [4, 5, 6], [4, 5, 6], 6, 13),
        ([4, 9], [4, 5, 6], [4, 5, REJECTED], 5, 12),
        ([9, 5], [4, 5, 6], [4, REJECTED, REJECTED], 4, 11),
        ([NOTHING, NOTHING], [4, 5, 6], [4, NOTHING, NOTHING], 4, 11),
    ],
)
def test_drafts_are_kept_as_far_as_they_are_the_targets_own(drafts, best, made, last, place):
    text, at, where = torch.zeros(20).long(), torch.tensor([3]), torch.tensor([10])
    written = accept(text, at, where, torch.tensor(drafts), torch.tensor(best), 18)
    assert written.tolist() == made
    assert (at.item(), where.item(), text[place].item()) == (last, place, last)


def test_what_is_compiled_for_a_gpu_is_one_graph_that_says_the_same():
    whole, search = (torch.compile(f, fullgraph=True, dynamic=True, backend="eager") for f in (accept, look_up))
    text, last, place = torch.tensor([1, 2, 3, 4, 1, 2] + [0] * 10), torch.tensor([2]), torch.tensor([5])
    drafts = search(text, place, 3)
    assert drafts.tolist() == look_up(text, place, 3).tolist() == [3, 4, 1]
    assert whole(text, last, place, drafts, torch.tensor([3, 4, 9, 9]), 16).tolist() == [3, 4, 9, REJECTED]
    assert (last.item(), place.item(), text[:9].tolist()) == (9, 8, [1, 2, 3, 4, 1, 2, 3, 4, 9])


def test_a_text_that_goes_on_behind_its_end_stays_in_its_slots():
    text, last, place = torch.zeros(20).long(), torch.tensor([3]), torch.tensor([15])
    accept(text, last, place, torch.tensor([4, 5]), torch.tensor([4, 5, 6]), 16)
    assert place.item() == 15


@pytest.mark.parametrize("kind", [ModelDrafts, TextDrafts])
def test_what_is_counted_on_finished_headlines_is_what_is_accepted(
    of, drafted, main_checkpoint, target_checkpoint, prompts, kind
):
    of(MOST_DRAFTS)
    drafter = TextDrafts() if kind is TextDrafts else ModelDrafts(load(main_checkpoint))
    engine, _ = drafted(load(target_checkpoint), drafter, prompts[:1])
    encoded = engine.texts.encode(prompts[:20])
    made = engine.generate_from(encoded, 1)
    runs = [drafter.runs([*p, *g.token_ids], len(p)) for p, g in zip(encoded, made, strict=True)]
    for run, generation in zip(runs, made, strict=True):
        assert len(run) == len(generation.token_ids) - 1
        at = accepted = 0
        while at < len(run):
            accepted += max(run[at], 0)
            at += max(run[at], 0) + 1
        assert accepted == generation.accepted
    assert any(run > 0 for run in itertools.chain(*runs))
