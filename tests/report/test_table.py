"""The table that fits a terminal, and the sample headlines."""

import math
import re
from dataclasses import replace

import pytest
from rows import ARTICLES, MEASUREMENT, OFFLINE, RECORD, SCORES, SKIPPED, SPECULATIVE, broken
from tables import COPY_ROUGE, cells, legend

from udaciheadline.evidence.verdict import decide
from udaciheadline.evidence.wording import beside_optimised
from udaciheadline.records import Estimate, Measurement, Memory, Record, Verdict
from udaciheadline.report.table import WIDTH, number, samples, table

REFERENCE = replace(RECORD, technique="kv-cache")


def written(*records: Record) -> str:
    return table(records, decide(records), COPY_ROUGE)


def rows_of(text: str) -> list[str]:
    return text.partition("\n\n")[0].splitlines()


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("avg", "125.0"),
        ("p99", "250.0*"),
        ("x kv-cache", "2.00 ±0.10"),
        ("offline", "40"),
        ("peak", "700"),
        ("ROUGE-1", "-.040 ±.020"),
        ("NLL", "+.250"),
    ],
)
def test_a_row_shows_what_a_decision_needs(column: str, cell: str) -> None:
    assert cells(written(REFERENCE, RECORD), "pruned")[column] == cell


def test_the_last_column_is_the_verdict() -> None:
    found = {row.split()[0]: row.split("  ")[-1] for row in rows_of(written(REFERENCE, RECORD))[3:]}
    assert found == {"kv-cache": "reference", "pruned": "deploy"}


def test_an_offline_row_has_a_rate_and_no_latency() -> None:
    found = cells(written(REFERENCE, OFFLINE), "compiled-batch")
    assert (found["avg"], found["x kv-cache"], found["offline"]) == ("", "", "80")


@pytest.mark.parametrize("status", ["crash", "oom", "timeout", "error"])
def test_a_row_that_broke_off_shows_its_status_and_below_its_reason_in_a_line(status: str) -> None:
    shown = written(RECORD, broken(status, "its worker died"))
    assert rows_of(shown)[-1].split() == ["speculative", status]
    assert f"speculative: {status}: its worker died." in legend(shown).splitlines()


def test_a_row_that_is_slower_than_what_it_optimises_has_a_line() -> None:
    slower = replace(SPECULATIVE, speed_up_over={"target": Estimate(0.8, 0.75, 0.85)})
    line = "speculative: slower than target, which it optimises: 0.80 ±0.05 times its speed."
    assert line in legend(written(RECORD, slower)).splitlines()
    assert "optimises" not in legend(written(RECORD, SPECULATIVE))


def test_a_row_that_may_not_be_faster_says_how_little_there_was_to_win() -> None:
    measurement = replace(MEASUREMENT, average_seconds=0.001, limit_seconds=0.00005)
    over = {"target": Estimate(0.9, 0.7, 1.1)}
    little = replace(SPECULATIVE, measurement=measurement, speed_up_over=over)
    line = "0.90 ±0.20 times as fast as target, which it optimises; 5% of its time is reading its weights"
    assert beside_optimised(little) == line
    much = replace(little, measurement=replace(measurement, limit_seconds=0.0005))
    ahead = replace(little, speed_up_over={"target": Estimate(1.2, 1.1, 1.3)})
    assert "reading" not in beside_optimised(much) + beside_optimised(ahead)


def huge(measurement: Measurement) -> Measurement:
    ratio = Estimate(123456.7, 12345.6, 234567.8)
    return replace(measurement, average_seconds=98765.4, p99_seconds=99999.9, speed_up=ratio)


EXTREME = replace(
    RECORD,
    technique="a-technique-with-a-long-name",
    measurement=huge(MEASUREMENT),
    throughput=replace(RECORD.throughput, headlines_per_second=1234567.8),
    memory=Memory((), (), 999_999 * 2**20),
    scores=replace(
        SCORES,
        rouge_difference=dict.fromkeys(SCORES.rouge, Estimate(-0.999, -1.5, -0.1)),
        nll_difference=Estimate(123.456, 100.0, 150.0),
    ),
)


@pytest.mark.parametrize("records", [(REFERENCE, RECORD), (REFERENCE, OFFLINE, EXTREME), (SKIPPED,)])
def test_no_row_is_wider_than_the_table_may_be(records: tuple[Record, ...]) -> None:
    assert max(map(len, rows_of(written(*records)))) <= WIDTH == 100


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.0"), (6.84, "6.8"), (9999.94, "9999.9"), (12345.6, "12346"), (1234567.8, "1.2e6")]
)
def test_a_number_has_six_characters_at_most(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_legend_has_no_more_than_eight_lines_of_no_more_than_the_width() -> None:
    several = replace(RECORD, technique="other", measurement=replace(MEASUREMENT, launches=3, count=5))
    lines = legend(written(REFERENCE, several, OFFLINE)).splitlines()
    assert 0 < len(lines) <= 8
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        ((1, 1), "; of speed in one process, plus 25% for how two may differ."),
        ((3, 5), "; of speed over fresh processes of both."),
        ((1, 5), "over fresh processes of both (1 rows: one, plus 25%)."),
    ],
)
def test_the_legend_says_over_what_the_interval_of_a_speed_up_is(launches: tuple[int, int], said: str) -> None:
    names = zip(("pruned", "other"), launches, strict=True)
    rows = [replace(RECORD, technique=name, measurement=replace(MEASUREMENT, launches=n)) for name, n in names]
    assert said in legend(written(*rows))


def test_the_legend_holds_the_reference_against_the_description() -> None:
    lines = legend(written(REFERENCE, RECORD)).splitlines()
    assert "ROUGE-1 of the description is 0.234, of kv-cache 0.500." in lines


def test_the_reference_and_the_description_are_scored_on_the_same_articles() -> None:
    more = replace(
        REFERENCE, job_scores=replace(SCORES, articles=400, rouge=dict.fromkeys(SCORES.rouge, Estimate(0.9, 0.8, 1.0)))
    )
    lines = legend(written(more)).splitlines()
    assert "ROUGE-1 of the description is 0.234, of kv-cache 0.500 (timed articles)." in lines


def test_the_legend_says_on_how_many_articles_quality_is_judged_and_what_loss_they_would_find() -> None:
    more = replace(RECORD, job_scores=replace(SCORES, articles=400, rouge1_detectable_loss=0.012))
    lines = legend(written(REFERENCE, more)).splitlines()
    assert "ROUGE-1, NLL: against kv-cache, n = 8 to 400; a loss of 0.030 ROUGE-1 is found (80 % power)." in lines


def test_the_legend_speaks_of_no_column_that_is_empty() -> None:
    below = legend(written(replace(RECORD, measurement=None, throughput=None, scores=None)))
    assert "avg" not in below
    assert "offline:" not in below
    assert "ROUGE-1" not in below


def test_a_p99_of_many_articles_has_no_mark() -> None:
    assert "*" not in written(replace(RECORD, measurement=replace(MEASUREMENT, p99_is_reliable=True)))


def test_each_failed_gate_has_a_line_and_those_that_are_open_one_together() -> None:
    failed = [
        Verdict("rouge1", "fail", 0.9, 0.97, "90.0% kept\n  article 3 became worse"),
        Verdict("work", "fail", 0.3, 0.1, "+30.0% new tokens"),
        Verdict("likelihood", "inconclusive", 0.1, 0.02, "within chance"),
    ]
    shown = legend(written(replace(RECORD, verdicts=failed), replace(OFFLINE, verdicts=failed[2:]))).splitlines()
    assert shown[-3:] == [
        "pruned: rouge1: fail: 90.0% kept",
        "pruned: work: fail: +30.0% new tokens",
        "Gates that are open (~, why: --details): pruned likelihood; compiled-batch likelihood.",
    ]


def test_skipped_rows_are_one_line_together_and_none_of_the_table() -> None:
    shown = written(
        RECORD,
        SKIPPED,
        broken("skipped", "it needs a CUDA GPU", technique="static-cache"),
        broken("skipped", "it needs a CUDA GPU", technique="layer-placement"),
    )
    assert [row.split()[0] for row in rows_of(shown)[3:]] == ["pruned"]
    assert legend(shown).splitlines()[-1] == (
        "Skipped: speculative (it needs a target model: name one with --target); "
        "static-cache, layer-placement (it needs a CUDA GPU)."
    )


def test_figures_that_are_no_number_are_not_printed_as_such() -> None:
    unknown = Estimate(math.nan, math.nan, math.nan)
    scores = replace(SCORES, rouge_difference=dict.fromkeys(SCORES.rouge, unknown), nll_difference=unknown)
    one = replace(MEASUREMENT, speed_up=Estimate(2.0, math.nan, math.nan))
    shown = table(
        [replace(RECORD, scores=scores, measurement=one)], decide([RECORD]), dict.fromkeys(SCORES.rouge, unknown)
    )
    assert "nan" not in shown
    assert (cells(shown, "pruned")["ROUGE-1"], cells(shown, "pruned")["x kv-cache"]) == ("-", "2.00")


def test_in_colour_a_row_has_that_of_its_verdict_and_the_words_stay() -> None:
    records = [REFERENCE, RECORD]
    shown = table(records, decide(records), COPY_ROUGE, lambda text, colour: f"<{colour}>{text}</>")
    assert [line for line in shown.splitlines() if "<" in line] == [f"<green>{rows_of(written(*records))[-1]}</>"]


# -- sample headlines ------------------------------------------------------------------------------------------------

MADE = {title: [f"{title} wrote {i}" for i in range(8)] for title in ("Baseline", "Speculative Decoding")}


def test_a_sample_shows_description_true_headline_and_what_each_technique_wrote() -> None:
    assert samples(ARTICLES, MADE, count=1).splitlines() == [
        "",
        "Description of article 0.",
        "  true headline: True headline 0",
        "  Baseline wrote 0  (Baseline)",
        "  Speculative Decoding wrote 0  (Speculative Decoding)",
    ]


def test_techniques_that_wrote_the_same_headline_share_a_line() -> None:
    made = {"Baseline": ["A"], "Pruned": ["B"], "KV Caching": ["A"]}
    assert samples(ARTICLES, made, count=1).splitlines()[3:] == ["  A  (Baseline; KV Caching)", "  B  (Pruned)"]


def test_a_headline_that_all_techniques_wrote_is_said_to_be_of_all() -> None:
    assert samples(ARTICLES, {"Baseline": ["A"], "Pruned": ["A"]}, count=1).splitlines()[3:] == ["  A  (all)"]


@pytest.mark.parametrize(("articles", "shown"), [(8, 3), (2, 2)])
def test_the_first_three_articles_are_shown_or_as_many_as_there_are(articles: int, shown: int) -> None:
    assert re.findall(r"Baseline wrote (\d)", samples(ARTICLES[:articles], MADE)) == [str(i) for i in range(shown)]


def test_a_technique_that_was_measured_on_fewer_articles_is_missing_where_it_wrote_nothing() -> None:
    assert "Pruned" not in samples(ARTICLES, {"Pruned": ["A"]}).partition("article 1")[2]


def test_without_a_measured_technique_the_sample_is_the_article_alone() -> None:
    assert "True headline 0" in samples(ARTICLES, {})
