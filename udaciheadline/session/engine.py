"""The engine of a row, which lives in one process after the other."""

import math
from collections.abc import Sequence
from typing import Any

from udaciheadline.records import BuildInfo, Generation
from udaciheadline.session.run import Run
from udaciheadline.techniques import Technique
from udaciheadline.workers.worker import Worker, WorkerError


class RowEngine:
    """That of one row, once it was started; what its worker raises goes through."""

    def __init__(self, run: Run, technique: Technique) -> None:
        self._run, self._technique = run, technique
        self.worker: Worker | None = None
        self.build_seconds = math.nan  # the first worker's: a later one finds what that has compiled

    def start(self) -> None:
        """Starts its first process."""
        self.worker = self._run.start_worker(self._technique)
        self.build_seconds = self.worker.build_seconds

    def relaunch(self) -> None:
        """Starts it in a new process, with what is left of the time-out."""
        self._alive.close()
        self.worker = self._run.start_worker(self._technique, self.seconds_left)

    @property
    def info(self) -> BuildInfo:
        """What it said of itself when it was built."""
        return self._alive.info

    @property
    def seconds_left(self) -> float:
        """What is left of the time-out."""
        return self._alive.seconds_left

    def warm_up(self) -> tuple[float, float]:
        """Answers an article, untimed (`Server.warm_up`)."""
        seconds: tuple[float, float] = self.ask_all("warm_up", self._run.prompts)[0]
        return seconds

    def answer(self, prompt: str) -> tuple[Generation, float]:
        """The headline of one prompt (`Server.answer`), from all ranks alike."""
        answers: list[tuple[Generation, float]] = self.ask_all("answer", prompt)
        _check_alike([[made] for made, _ in answers])
        return answers[0]

    def generate(self, *job: Any) -> list[Generation]:
        """Those of a job (`Server.generate`), from all ranks alike."""
        answers: list[list[Generation]] = self.ask_all("generate", *job)
        _check_alike(answers)
        return answers[0]

    def ask_all(self, method: str, *args: Any) -> list[Any]:
        """What each rank answers."""
        return self._alive.call_all(method, *args)

    def close(self) -> None:
        """Ends its process, and with it frees all of its memory."""
        if self.worker is not None:
            self.worker.close()

    @property
    def _alive(self) -> Worker:
        assert self.worker is not None
        return self.worker


def _check_alike(answers: Sequence[Sequence[Generation]]) -> None:
    """Raises WorkerError where a rank has not written the same as the first: then it is no part of its model."""
    if len({tuple(generation.token_ids for generation in made) for made in answers}) > 1:
        raise WorkerError("error", "its ranks do not write the same headlines")
