import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from rows import answers

from udaciheadline.evidence import quality, rouge
from udaciheadline.evidence.quality import ROUGE_TYPES, first_difference, partings, retention, score
from udaciheadline.evidence.statistics import detectable, mean

PAIRS = (
    ("Council votes to forbid smoking", "Council Votes To Forbid Smoking!"),
    ("Council vote on smoke", "Council votes on smoking in the park"),
    ("the cat ran", "the cat sat"),
    ("Smoke, then\nfire in Orrmarch", "Fire in Orrmarch\nand smoke"),
    ("Nothing in common", "Strollers unaffected"),
    ("", "A true headline"),
)
MADE, TRUE = map(list, zip(*PAIRS, strict=True))


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test of this file reaches the network, or writes to the caches of whoever runs it."""
    folder = tmp_path_factory.mktemp("huggingface")

    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("ROUGE asked the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder)
        patch.setattr(evaluate.loading.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(sys, "path", [*sys.path])  # evaluate.load appends to it
        yield folder


@pytest.fixture(params=["of this process", "loaded by its path"])
def metric(request: pytest.FixtureRequest, offline: Path) -> Any:
    """A `HeadlineRouge`, had in either way."""
    if request.param == "of this process":
        return rouge.HeadlineRouge(keep_in_memory=True)
    return evaluate.load(rouge.__file__, cache_dir=str(offline))


def test_headline_rouge_is_a_metric_that_agrees_with_rouge_score(metric: Any) -> None:
    assert isinstance(metric, evaluate.Metric)
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=False)
    theirs = [scorer.score(true, made) for made, true in PAIRS]
    ours = metric.compute(predictions=MADE, references=TRUE)
    assert ours == {kind: [row[kind].fmeasure for row in theirs] for kind in ROUGE_TYPES}


def test_predictions_and_references_must_be_as_many(metric: Any) -> None:
    with pytest.raises(ValueError, match="Mismatch in the number"):
        metric.compute(predictions=MADE, references=TRUE[:-1])


def test_rouge_gives_the_values_worked_by_hand() -> None:
    # 2 of 3 words are the same, 1 of 2 pairs, and the longest common subsequence has 2 words.
    values = quality.rouge(["the cat ran"], ["the cat sat"])
    expected = {"rouge1": 2 / 3, "rouge2": 1 / 2, "rougeL": 2 / 3, "rougeLsum": 2 / 3}
    assert values == {kind: [pytest.approx(share)] for kind, share in expected.items()}


@pytest.mark.parametrize(
    ("made", "true", "rouge1"),
    [
        ("Council votes", "council VOTES!", 1.0),
        ("council votes", "council vote", 0.5),
        ("", "council votes", 0.0),
        ("nothing alike", "council votes", 0.0),
    ],
    ids=["case and punctuation do not count", "words are not stemmed", "an empty headline", "no word in common"],
)
def test_rouge_counts_words(made: str, true: str, rouge1: float) -> None:
    assert quality.rouge([made], [true])["rouge1"] == [rouge1]


def test_rouge_is_kept_article_by_article_in_order() -> None:
    assert quality.rouge(["a b", "c d", "e f"], ["x y", "c d", "e z"])["rouge1"] == [0.0, 1.0, 0.5]


def test_a_session_scores_without_torch() -> None:
    script = (
        "import sys; from udaciheadline.evidence.quality import rouge; rouge(['a'], ['a']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


THAI, CHINESE = "นายกฯ เปิดสะพานใหม่", "市长为新桥剪彩"


@pytest.mark.parametrize(
    ("true", "is_seen"),
    [
        ((THAI, CHINESE), False),
        ((THAI, CHINESE, "ปี 2567"), False),
        ((THAI, "A new bridge"), True),
        (("", "A new bridge"), True),
    ],
    ids=["no word", "a figure among many", "half of them", "an empty headline"],
)
def test_rouge_is_unknown_where_it_finds_no_word_in_most_true_headlines(true: tuple[str, ...], is_seen: bool) -> None:
    scores = quality.rouge(true, true)
    assert list(scores) == list(ROUGE_TYPES)
    for values in scores.values():
        assert len(values) == len(true)
        assert all(map(math.isfinite, values)) == is_seen
        assert all(map(math.isnan, values)) != is_seen


def test_rouge_that_is_unknown_scores_no_number() -> None:
    unknown = answers(rouge=[math.nan] * 8)
    scores = score(unknown, unknown)
    assert math.isnan(scores.rouge["rouge1"].value)
    assert math.isnan(scores.rouge_difference["rouge1"].value)
    assert scores.nll == mean([1.0] * 8)


@pytest.mark.parametrize(
    ("tokens", "other", "position"),
    [
        ((), (), None),
        ((1, 2, 3), (1, 2, 3), None),
        ((9, 2, 3), (1, 2, 3), 0),
        ((1, 2, 9), (1, 2, 3), 2),
        ((1, 9, 9), (1, 2, 3), 1),
        ((1, 2), (1, 2, 3), 2),
        ((), (1,), 0),
    ],
    ids=["both empty", "same", "at once", "at the last", "the first of two", "one goes on", "one is empty"],
)
def test_the_first_difference_of_two_sequences(
    tokens: tuple[int, ...], other: tuple[int, ...], position: int | None
) -> None:
    assert first_difference(tokens, other) == position
    assert first_difference(other, tokens) == position


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_sequences_are_equal_up_to_their_first_difference_and_not_there(a: list[int], b: list[int]) -> None:
    position = first_difference(a, b)
    if position is None:
        assert a == b
    else:
        assert a[:position] == b[:position]
        assert a[position : position + 1] != b[position : position + 1]


TOKENS = ((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 9, 4), (1, 2, 3, 4, 5, 6), (1, 2, 3), (1, 2, 3, 4), (7,), (1, 2, 3, 4))
ROUGE = {
    "rouge1": [0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.1, 0.5],
    "rouge2": [0.3] * 8,
    "rougeL": [0.2, 0.3, 0.4, 0.5, 0.2, 0.3, 0.4, 0.5],
    "rougeLsum": [0.4] * 8,
}
NLL = [1.0, 1.5, 1.0, 1.25, 1.0, 1.0, 3.0, 1.0]


@pytest.fixture(scope="module")
def scored() -> quality.Scores:
    """A row that differs from the reference in articles 2 (token 2), 3 (token 4), 4 (token 3) and 6 (token 0)."""
    return score(answers("row", rouge=ROUGE, nll=NLL, tokens=TOKENS), answers())


@pytest.mark.parametrize("kind", ROUGE_TYPES)
def test_a_score_is_the_mean_of_the_row_and_of_its_differences_to_the_reference(
    scored: quality.Scores, kind: str
) -> None:
    assert scored.rouge[kind] == mean(ROUGE[kind])
    assert scored.rouge_difference[kind] == mean([value - 0.5 for value in ROUGE[kind]])


def test_a_score_has_the_likelihood_and_its_difference_to_the_reference(scored: quality.Scores) -> None:
    assert scored.nll == mean(NLL)
    assert scored.nll_difference == mean([value - 1.0 for value in NLL])


def test_a_score_tells_which_loss_of_rouge1_so_many_articles_find(scored: quality.Scores) -> None:
    assert scored.rouge1_detectable_loss == detectable([value - 0.5 for value in ROUGE["rouge1"]])


def test_a_score_says_how_many_headlines_are_identical_and_where_the_others_begin_to_differ(
    scored: quality.Scores,
) -> None:
    assert scored.identical_share == 0.5
    assert scored.first_difference_earliest == 0
    assert scored.first_difference_median == 2.5


def test_a_row_that_equals_the_reference_has_no_first_difference() -> None:
    scores = score(answers("row"), answers())
    assert scores.identical_share == 1.0
    assert scores.first_difference_earliest is None
    assert scores.first_difference_median is None


def test_headlines_are_compared_by_their_tokens_and_not_by_their_text() -> None:
    assert quality.differences(answers(tokens=[(1, 2)]), answers(tokens=[(1, 3)])) == [1]


def test_rows_of_different_length_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        quality.differences(answers(), answers(tokens=[(1, 2, 3, 4)] * 7))


def test_a_likelihood_that_is_not_a_number_scores_no_number() -> None:
    assert math.isnan(score(answers(nll=[math.nan] * 8), answers()).nll.value)


def test_headlines_part_where_both_have_a_token_and_not_where_one_has_ended() -> None:
    ours, theirs = [(1, 2), (1, 2, 3), (1, 2), (5,)], [(1, 2), (1, 4, 3), (1, 2, 3), (6, 7), (8,)]
    assert partings(ours, theirs) == {1: 1, 3: 0}


def test_retention_is_the_share_of_the_references_mean_and_not_the_mean_of_shares() -> None:
    assert retention([0.3, 0.1], [0.4, 0.4]) == pytest.approx(0.5)
    assert retention([0.9, 0.1], [0.2, 0.8]) == pytest.approx(1.0)


def test_retention_of_a_reference_that_scores_nothing_is_unknown() -> None:
    assert math.isnan(retention([0.5], [0.0]))
