import re
from types import SimpleNamespace
from typing import Any

import pytest

from udaciheadline.report import progress
from udaciheadline.report.progress import JobProgress, Progress


class Terminal:
    """What a progress of two techniques wrote, under a clock that is set by hand."""

    def __init__(self, is_terminal: bool) -> None:
        self.seconds = 1000.0
        self.sizes = [1.0, 1.0]
        self.written: list[str] = []
        self.is_terminal = is_terminal

    def start(self) -> Progress:
        return Progress(self.written.append, self.sizes, self.is_terminal)

    def after(self, seconds: float) -> None:
        self.seconds += seconds

    @property
    def line(self) -> str:
        return self.written[-1].strip()


@pytest.fixture
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    terminal = Terminal(getattr(request, "param", True))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: terminal.seconds))
    return terminal


both = pytest.mark.parametrize("terminal", [True, False], indirect=True, ids=["terminal", "log"])


@both
def test_a_line_names_the_technique_what_it_does_and_the_article(terminal: Terminal) -> None:
    show = terminal.start()
    terminal.after(30)
    show("int8", "measuring", 24, 50)
    assert terminal.line.startswith("[1/2] int8: measuring 25 of 50 articles")


@both
def test_the_time_left_is_that_of_all_techniques(terminal: Terminal) -> None:
    """A quarter of the work took 30 s, so the rest takes 90 s."""
    show = terminal.start()
    terminal.after(30)
    show("int8", "measuring", 25, 50)
    assert terminal.line.endswith(", 90 s left")


def test_a_technique_to_come_takes_what_one_of_its_size_took_in_the_middle(terminal: Terminal) -> None:
    """The first took three times as long as the others, the last has half as much to do."""
    terminal.sizes = [1.0, 1.0, 1.0, 1.0, 0.5]
    show = terminal.start()
    for seconds in (90, 30, 32):
        terminal.after(seconds)
        show.technique_ended()
    terminal.after(10)
    show("fp4", "building", 0, 1)
    assert terminal.line == "[4/5] fp4: building, 38 s left"  # 22 of its 32, and half of 32


def test_a_technique_that_takes_longer_than_was_guessed_leaves_the_others_their_time(terminal: Terminal) -> None:
    terminal.sizes = [1.0, 1.0, 1.0]
    show = terminal.start()
    terminal.after(30)
    show.technique_ended()
    terminal.after(40)
    show("fp4", "building", 0, 1)
    assert terminal.line == "[2/3] fp4: building, 30 s left"


def test_what_comes_after_the_last_article_takes_time_too(terminal: Terminal) -> None:
    show = terminal.start()
    terminal.after(30)
    show.technique_ended()
    terminal.after(20)
    show("fp4", "measuring", 50, 50)
    assert terminal.line.endswith(", 10 s left")


def test_before_anything_is_done_no_time_is_guessed(terminal: Terminal) -> None:
    show = terminal.start()
    terminal.after(5)
    show("int8", "building", 0, 1)
    assert terminal.line == "[1/2] int8: building"


def test_what_comes_after_the_last_article_does_not_throw_the_guess_back(terminal: Terminal) -> None:
    show = terminal.start()
    terminal.after(50)
    show("int8", "measuring", 49, 50)
    terminal.after(10)
    show("int8", "quality", 0, 1)
    (left,) = re.findall(r"(\d+) s left", terminal.line)
    assert 50 <= int(left) <= 62


def test_the_count_of_techniques_does_not_run_past_their_number(terminal: Terminal) -> None:
    show = terminal.start()
    for _ in range(2):
        show.technique_ended()
    terminal.after(1)
    show("reference", "building", 0, 1)
    assert terminal.line.startswith("[2/2]")


@pytest.mark.parametrize(("terminal", "pause"), [(True, 0.1), (False, 10)], indirect=["terminal"])
def test_lines_are_not_written_more_often_than_they_can_be_read(terminal: Terminal, pause: float) -> None:
    show = terminal.start()
    terminal.after(pause * 1.01)
    show("int8", "measuring", 0, 50)
    terminal.after(pause * 0.9)
    show("int8", "measuring", 1, 50)
    assert len(terminal.written) == 1
    terminal.after(pause * 0.2)
    show("int8", "measuring", 2, 50)
    assert len(terminal.written) == 2


@both
def test_a_build_is_always_announced_because_it_may_take_long(terminal: Terminal) -> None:
    show = terminal.start()
    show("int8", "building", 0, 1)
    show("fp4", "building", 0, 1)
    assert len(terminal.written) == 2
    assert "fp4: building" in terminal.line


def test_a_terminal_gets_one_line_that_covers_the_one_before(terminal: Terminal) -> None:
    show = terminal.start()
    terminal.after(30)
    show("a-technique-of-a-long-name", "measuring", 25, 50)
    show("int8", "building", 0, 1)
    first, second = terminal.written
    assert first.startswith("\r")
    assert second.startswith("\r")
    assert "\n" not in first + second
    assert len(second) >= len(first)


@pytest.mark.parametrize("terminal", [False], indirect=True)
def test_a_log_gets_lines_of_their_own(terminal: Terminal) -> None:
    show = terminal.start()
    show("int8", "building", 0, 1)
    assert terminal.written[0].endswith("\n")
    assert "\r" not in terminal.written[0]


@both
def test_a_job_says_how_much_is_done_how_fast_and_the_time_left(terminal: Terminal) -> None:
    """A fifth was there already; another fifth takes 30 s, so the rest takes 90 s."""
    show = JobProgress(terminal.written.append, terminal.is_terminal, 0.2)
    terminal.after(10)
    show(2000, 0.25)
    terminal.after(20)
    show(1000, 0.4)
    assert terminal.line == "3,000 articles, 100/s, 40%, 90 s left"


def test_a_slow_job_says_how_fast_it_is_all_the_same(terminal: Terminal) -> None:
    show = JobProgress(terminal.written.append, True, None)
    terminal.after(40)
    show(10, None)
    assert terminal.line == "10 articles, 0.2/s"


def test_a_job_of_unknown_length_says_no_time_left(terminal: Terminal) -> None:
    show = JobProgress(terminal.written.append, True, None)
    terminal.after(10)
    show(2000, None)
    assert terminal.line == "2,000 articles, 200/s"


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, 3), (False, 1)])
def test_a_log_of_a_job_gets_a_line_every_ten_seconds(is_terminal: bool, lines: int, terminal: Terminal) -> None:
    show = JobProgress(terminal.written.append, is_terminal, None)
    for _ in range(3):
        terminal.after(4)
        show(1, None)
    assert len(terminal.written) == lines


def test_what_comes_after_a_job_has_a_line_of_its_own(terminal: Terminal) -> None:
    show = JobProgress(terminal.written.append, True, None)
    show.end()
    assert terminal.written == []
    terminal.after(1)
    show(1, None)
    show.end()
    assert terminal.written[-1] == "\n"
