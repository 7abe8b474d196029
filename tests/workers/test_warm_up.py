"""What a worker answers before a time of it counts."""

from types import SimpleNamespace
from typing import Any

import pytest
from rows import generation

from udaciheadline.records import EngineSpec, Generation
from udaciheadline.techniques import Technique
from udaciheadline.workers.serving import Place, Server

SPEC = EngineSpec("main", None, "main", "cpu", "float32")


class LengthByLength:
    """An engine that takes two seconds for a prompt of a length that it has not met, and one for others."""

    info = None
    texts = SimpleNamespace(
        check=None, fitting=None, likelihood=None, preferences=None, rounding=None,
        longest=lambda prompts, count: sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))[:count],
    )  # fmt: skip

    def __init__(self) -> None:
        self.answered: list[str] = []

    def shape(self, prompt: str) -> int:
        return len(prompt)

    def generate(self, prompts: list[str], batch_size: int | None = None) -> list[Generation]:
        (prompt,) = prompts
        known = len(prompt) in map(len, self.answered)
        self.answered.append(prompt)
        return [generation(prompt.upper(), seconds=1.0 if known else 2.0)]

    def close(self) -> None:
        pass


@pytest.fixture
def engine() -> Any:
    return LengthByLength()


@pytest.fixture
def server(engine: Any) -> Server:
    return Server(Technique("online", "Online", 1, build=lambda spec: engine), SPEC, Place())


def test_the_first_prompt_of_a_shape_is_answered_twice_and_the_second_answer_counts(
    server: Server, engine: Any
) -> None:
    made = [server.answer(prompt) for prompt in ("ab", "cd", "efg")]
    assert [(g.headline, g.seconds, untimed) for g, untimed in made] == [
        ("AB", 1.0, 2.0),
        ("CD", 1.0, 0.0),
        ("EFG", 1.0, 2.0),
    ]
    assert engine.answered == ["ab", "ab", "cd", "efg", "efg"]


def test_the_longest_prompt_warms_up_and_need_not_be_answered_twice_then(server: Server, engine: Any) -> None:
    server.warm_up(["a", "abc", "ab"])
    server.answer("abc")
    assert engine.answered == ["abc", "abc", "abc"]


def test_what_an_article_takes_counts_the_first_answers_of_other_shapes_in(server: Server) -> None:
    taken, seconds = server.warm_up(["a", "abc", "ab", "abd"])
    assert (taken, seconds) == (3.0, 1.5)


def test_where_all_prompts_are_alike_one_answer_warms_up(
    server: Server, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LengthByLength, "shape", lambda *_: 0)
    assert server.warm_up(["a", "abc"]) == (2.0, 2.0)
    server.answer("a")
    assert engine.answered == ["abc", "a"]


def test_it_is_known_which_prompts_an_engine_is_warm_for(server: Server, engine: Any) -> None:
    server.warm_up(["a", "abc", "ab"])
    server.answer("a")
    assert server.met(["ab", "b", "abd", "abcd"]) == [1, 2]


def test_an_engine_that_is_warm_for_no_prompt_answers_the_longest_first(server: Server, engine: Any) -> None:
    assert server.met(["ab", "abc"]) == [1]
    assert engine.answered[0] == "abc"
