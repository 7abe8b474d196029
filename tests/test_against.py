"""`pytest bench --against` another checkout, as a user runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sessions import FEW, ROOT, bench, environment, records

# What is larger by now than it was there, in which chance has no part.
LIGHTER = """

from dataclasses import replace as _replace

Server.info = lambda self: _replace(self.engine.info, weights_bytes=1000)
"""

Session = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The results of a session beside a checkout whose models have fewer bytes, and the session."""
    folder = tmp_path_factory.mktemp("against")
    shutil.copytree(ROOT / "udaciheadline", folder / "then" / "udaciheadline")
    shutil.copy(ROOT / "conftest.py", folder / "then")
    with (folder / "then" / "udaciheadline" / "workers" / "serving.py").open("a", encoding="utf-8") as file:
        file.write(LIGHTER)
    options = "--technique", "kv-cache", f"--against={folder / 'then'}"
    return folder / "r", bench(folder / "r", *FEW, *options, cwd=folder)


def test_what_got_larger_than_in_the_other_checkout_fails_the_session(session: Session) -> None:
    results, done = session
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 regressions: kv-cache LARGER." in done.stdout
    assert records(results)["kv-cache"]["other_code"]["weights_bytes"] == 1000


def test_the_same_headlines_are_the_same_in_the_other_checkout(session: Session) -> None:
    found = records(session[0])["kv-cache"]["other_code"]
    assert len(found["log_ratios"]) == 2
    assert found["rouge1"] == found["rouge1_now"]


def test_what_was_measured_beside_other_code_is_compared_again_afterwards(session: Session) -> None:
    line = [sys.executable, "-m", "udaciheadline.cli", "compare", "--results", str(session[0]), "--format", "markdown"]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("## 1 regressions: kv-cache LARGER.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--against", "{checkout}"), "write --against=CODE, with ="),
        (("--against=",), "--against=: it names nothing"),
        (("--against", "nowhere"), "--against nowhere: it is neither a checkout of udaciheadline nor a Python that"),
    ],
    ids=["apart from its option", "nothing", "no other code"],
)
def test_other_code_that_cannot_be_used_ends_the_session_with_a_sentence(
    session: Session, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    asked = [argument.format(checkout=session[0].parent / "then") for argument in arguments]
    done = bench(tmp_path / "r", *FEW, "--technique", "kv-cache", *asked)
    assert done.returncode == 4
    assert said in done.stderr
