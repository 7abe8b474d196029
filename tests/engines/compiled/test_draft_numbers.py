"""How many tokens are drafted at a time, by what was counted and timed at the build."""

import pytest

from udaciheadline.engines.compiled.drafts import NOTHING
from udaciheadline.engines.compiled.speculation import Choice, best_k


def test_the_number_of_drafts_is_the_fastest_by_what_was_counted_and_timed():
    right = [[2, 1, 0, 2, 1, 0]]  # two drafts, then the target's own token
    free = dict.fromkeys(range(5), 1.0)
    assert best_k(right, free) == Choice(2, pytest.approx(2 / 6), 2, pytest.approx(3.0))
    dear = {k: 0.1 + k for k in range(1, 5)} | {0: 1.0}
    assert best_k(right, dear) == Choice(2, pytest.approx(2 * 2.1 / 6), 2, pytest.approx(6 / 4.2))
    dearer = {0: 1.0, 1: 1.0, 2: 2.0, 3: 3.0}
    assert best_k(right, dearer).k == 1


def test_steps_take_the_place_of_rounds_where_nothing_is_found():
    runs = [[NOTHING, 1, 0, NOTHING]]
    seconds = {0: 1.0, 1: 1.5, 2: 1.6}
    assert best_k(runs, seconds) == Choice(1, pytest.approx(3.5 / 4), 1, pytest.approx(4 / 3.5))


def test_nothing_is_drafted_where_steps_are_as_fast():
    right = [[2, 1, 0, 2, 1, 0]]
    assert best_k(right, {0: 1.0, 1: 2.5, 2: 3.0}) == Choice(0, 1.0, 2, pytest.approx(1.0))
    assert best_k(right, {0: 1.0, 1: 5.0}) == Choice(0, 1.0, 1, pytest.approx(6 / 20))
