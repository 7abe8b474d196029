"""The gates of `gates.toml`: is what the timed run wrote as good as what the reference wrote?"""

import pytest

from udaciheadline.session.row import Row


def require(row: Row, *gates: str) -> None:
    """Fails where one of these gates failed, skips where none of them could be judged."""
    verdicts = [verdict for verdict in row.verdicts() if verdict.gate in gates]
    failed = [f"{row.technique.title}: {v.gate}: {v.message}" for v in verdicts if v.status == "fail"]
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)
    judged = [verdict for verdict in verdicts if verdict.status != "not judged"]
    if not judged:
        pytest.skip(verdicts[0].message if verdicts else "gates.toml sets no such threshold for this technique")


def test_rouge(row: Row) -> None:
    require(row, "rouge1", "rougeL")


def test_job_writes_as_well(row: Row) -> None:
    """What more articles than the timed ones are judged by is written as a job."""
    require(row, "job")


def test_likelihood(row: Row) -> None:
    require(row, "likelihood")


def test_parity(row: Row) -> None:
    require(row, "parity")


def test_equal_work(row: Row) -> None:
    require(row, "work")


def test_weights(row: Row) -> None:
    require(row, "weights")


def test_speed(row: Row) -> None:
    require(row, "speed")


def test_speed_over_what_it_optimises(row: Row) -> None:
    """By the same means: one article at a time or, of a row that has jobs only, as jobs."""
    require(row, "optimises")


def test_reference_floor(row: Row) -> None:
    """A fault that all rows share escapes every comparison between them."""
    require(row, "floor rouge1", "floor likelihood")
