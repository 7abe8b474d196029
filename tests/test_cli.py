"""`udaciheadline`, as a user calls it: what it prints, and its exit status."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rows import ARTICLES, PER_ARTICLE, RECORD, run

from udaciheadline.cli import main
from udaciheadline.records import Record
from udaciheadline.session.runs import promote
from udaciheadline.session.store import Store

GOOD = replace(RECORD, run="good")
BAD = replace(
    RECORD,
    run="bad",
    per_article=replace(PER_ARTICLE, log_ratios=tuple(ratio - math.log(1.1) for ratio in PER_ARTICLE.log_ratios)),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is called: a run is in its folder of results, and promoted."""
    monkeypatch.chdir(tmp_path)
    session(GOOD)
    promote(None, Path("results"), Path("baselines"))
    return tmp_path


def session(record: Record, exit_status: int = 0) -> None:
    store = Store(Path("results"))
    store.append(record)
    store.end(record.run, exit_status)


def test_promoting_says_where_the_baseline_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "promote"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == Path("baselines")
    assert json.loads(path.read_text("utf-8"))["run"] == "good"


def test_the_latest_run_is_compared_and_a_regression_is_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    session(replace(GOOD, run="again"))
    assert main(["compare", "baselines"]) == 0
    session(BAD)
    assert main(["compare", "baselines"]) == 1
    assert main(["compare", "good", "bad"]) == 1
    assert "1 regressions: pruned SLOWER. Run bad against good." in capsys.readouterr().out


def test_json_is_whole_and_has_the_number_of_regressions(capsys: pytest.CaptureFixture[str]) -> None:
    session(BAD)
    capsys.readouterr()
    assert main(["compare", "baselines", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["regressions"] == 1
    assert {change["metric"]: change["verdict"] for change in found["changes"]}["speed"] == "regression"


def test_markdown_is_for_a_job_summary(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", "good", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("## No regression.")


def test_what_cannot_be_used_is_one_sentence_and_exit_status_4(capsys: pytest.CaptureFixture[str]) -> None:
    session(replace(GOOD, run="other", settings={"prompt": "chat"}))
    capsys.readouterr()
    assert main(["compare", "good"]) == 4
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("udaciheadline: the baseline good does not fit: it was made with ")
    assert error.count("\n") == 1


def test_a_run_that_failed_is_not_promoted(capsys: pytest.CaptureFixture[str]) -> None:
    session(BAD, exit_status=1)
    assert main(["baseline", "promote"]) == 4
    assert "run bad: it failed (exit status 1): promote one that passed" in capsys.readouterr().err


# -- report ------------------------------------------------------------------------------------------------------------


def test_a_report_on_the_latest_run_lies_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    session(replace(GOOD, run="now"))
    assert main(["report"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths == [Path("results/report.html"), Path("results/report.md")]
    assert "run now" in paths[0].read_text("utf-8")


def test_a_report_on_an_earlier_run_goes_where_it_is_asked_to_with_another_budget() -> None:
    session(BAD)
    assert main(["report", "good", "-o", "there", "--goal", "memory", "--budget", "p50<1s"]) == 0
    text = Path("there/report.md").read_text("utf-8")
    assert "run good" in text
    assert "goal memory, budget p50&lt;1s" in text
    assert not Path("results/report.md").exists()


@pytest.mark.parametrize("named", ["run", "elsewhere", "elsewhere/records.jsonl"])
def test_a_report_has_the_texts_of_its_articles_from_the_folder_that_its_run_is_in(folder: Path, named: str) -> None:
    elsewhere = Store(folder / ("results" if named == "run" else "elsewhere"))
    for record in run():
        elsewhere.append(replace(record, run="run", settings=record.settings | {"fingerprint": "abc"}))
    elsewhere.keep_articles("abc", ARTICLES)
    assert main(["report", named, "-o", "there"]) == 0
    assert f"True headline: {ARTICLES[2].headline}" in Path("there/report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: this is neither a file, nor a folder, nor a run"),
        (["--budget", "p99=50ms"], "--budget 'p99=50ms': this is no limit: write it as in"),
        (["-o", "results/records.jsonl"], "results/records.jsonl: it cannot be written"),
    ],
)
def test_what_no_report_can_be_made_of_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    capsys.readouterr()
    assert main(["report", *arguments]) == 4
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"udaciheadline: {said}")
    assert error.count("\n") == 1


def test_figures_that_no_session_measures_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert GOOD.build
    session(replace(GOOD, run="odd", build=replace(GOOD.build, weights_bytes=-1)))
    session(replace(GOOD, run="odd", technique="kv-cache"))
    capsys.readouterr()
    assert main(["report", "odd"]) == 4
    assert "run odd: it has figures that no session measures" in capsys.readouterr().err
