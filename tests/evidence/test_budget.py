"""Limits: how they are written, and whether a row keeps them."""

import math
from dataclasses import replace

import pytest
from rows import OFFLINE, RECORD, SCORES

from udaciheadline.evidence.budget import METRICS, Budget, Held, Limit, budget_of, certainly_held, held, parse_budget
from udaciheadline.records import Energy, Estimate, UsageError


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("p50<20ms", "p50", 0.02),
        ("p90 < 1.5s", "p90", 1.5),
        ("p99<=500us", "p99", 0.0005),
        ("first<10 ms", "first", 0.01),
        ("rate>100/s", "rate", 100),
        ("rate>100", "rate", 100),
        ("memory<4GiB", "memory", 4 * 2**30),
        ("memory<4GB", "memory", 4e9),
        ("weights<.5MiB", "weights", 2**19),
        ("rouge1>95%", "rouge1", 0.95),
        ("nll<+0.02", "nll", 0.02),
        ("nll<-0.1nats", "nll", -0.1),
        ("energy<5J", "energy", 5),
    ],
)
def test_a_limit_is_read_in_the_units_of_its_figure(text: str, metric: str, bound: float) -> None:
    (limit,) = parse_budget(text, "interactive").limits
    assert (limit.metric, limit.text) == (metric, text)
    assert limit.bound == pytest.approx(bound)


def test_limits_are_divided_by_commas_and_none_is_no_limit() -> None:
    assert [limit.metric for limit in parse_budget("p99<50ms, memory<4GiB", "offline").limits] == ["p99", "memory"]
    assert parse_budget("", "memory") == Budget("memory")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99", "this is no limit: write it as in --budget "),
        ("p99<fast", "this is no limit"),
        ("p99<50ms memory<4GiB", "this is no limit"),
        ("p99<50", "the p99 latency is given in ms, s, us: write it as in p99<50ms"),
        ("p99<50MiB", "the p99 latency is given in ms, s, us"),
        ("rouge1>0.95", "is given in %: write it as in rouge1>95%"),
        ("p99>50ms", "the p99 latency has an upper limit: write it as in p99<50ms"),
        ("rate<10", "the rate of a job has a lower limit: write it as in rate>100/s"),
        ("cost<1", "there is no figure 'cost': choose from p50, p90"),
    ],
)
def test_what_is_no_limit_is_refused_in_one_sentence_that_shows_a_right_one(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text, "interactive")
    assert str(caught.value).startswith(f"--budget {text!r}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_goal_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="--goal 'cheap': there is no such goal: choose from interactive, offline"):
        parse_budget("", "cheap")


@pytest.mark.parametrize("name", METRICS)
def test_the_example_of_each_figure_is_a_right_one(name: str) -> None:
    (limit,) = parse_budget(METRICS[name].example, "interactive").limits
    assert limit.metric == name


def only(text: str) -> Limit:
    (limit,) = parse_budget(text, "interactive").limits
    return limit


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("p99<300ms", Held.KEPT, ""),
        ("p99<250ms", Held.KEPT, ""),
        ("p99<50ms", Held.BROKEN, "the p99 latency 250 ms, 200 ms above p99<50ms"),
        ("memory<0.5GiB", Held.BROKEN, "peak memory 700 MiB, 188 MiB above memory<0.5GiB"),
        ("rate>50/s", Held.BROKEN, "the rate of a job 40/s, 10/s below rate>50/s"),
        ("weights<4MiB", Held.KEPT, ""),
        ("energy<5J", Held.NOT_MEASURED, "the energy of a headline was not measured here, which energy<5J needs"),
        # Of the reference's 0.54, 0.04 ±0.02 is lost: 92.6 %, from 88.9 % to 96.3 %.
        ("rouge1>90%", Held.KEPT, ""),
        ("rouge1>95%", Held.DOUBTFUL, "but within chance"),
        ("rouge1>97%", Held.BROKEN, "ROUGE-1 that is kept 92.6%, 4.4% below rouge1>97%"),
        ("nll<+0.2", Held.DOUBTFUL, "the rise in NLL +0.250 nats, 0.050 nats above nll<+0.2, but within chance"),
        ("nll<+0.1", Held.BROKEN, "the rise in NLL +0.250 nats, 0.150 nats above nll<+0.1"),
    ],
)
def test_a_row_is_held_against_a_limit(text: str, state: Held, words: str) -> None:
    found, said = held(RECORD, only(text))
    assert found is state
    assert said.endswith(words)


def test_energy_that_was_measured_is_held_against_its_limit() -> None:
    record = replace(RECORD, energy=Energy(6.0, 10, 3.0, "NVML"))
    assert held(record, only("energy<5J")) == (Held.BROKEN, "the energy of a headline 6 J, 1 J above energy<5J")


def test_a_row_without_latency_has_no_p99_to_keep() -> None:
    assert held(OFFLINE, only("p99<1s"))[0] is Held.NOT_MEASURED


def test_one_article_cannot_break_a_limit_of_quality_for_certain() -> None:
    one = replace(SCORES, nll_difference=Estimate(9.0, math.nan, math.nan))
    assert held(replace(RECORD, scores=one), only("nll<+0.02"))[0] is Held.DOUBTFUL


def test_quality_is_certain_only_where_its_whole_interval_is_within() -> None:
    assert certainly_held(RECORD, only("nll<+0.4"))
    assert not certainly_held(RECORD, only("nll<+0.3"))
    assert certainly_held(RECORD, only("p50<130ms"))


def test_a_records_settings_say_what_budget_its_session_had() -> None:
    asked = replace(RECORD, settings={"goal": "offline", "budget": "nll<+0.02"})
    assert budget_of(asked) == parse_budget("nll<+0.02", "offline")
    assert budget_of(RECORD) == Budget()
