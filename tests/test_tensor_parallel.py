"""The main model in float32, split over ranks that are processes on this CPU and talk through gloo."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from udaciheadline import newswire, parallel
from udaciheadline.models import resolve
from udaciheadline.prompts import prompt_for
from udaciheadline.records import EngineSpec, Unsupported
from udaciheadline.techniques import techniques
from udaciheadline.workers import Worker

BATCH = 64


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Of all 1,000 evaluation articles."""
    return [prompt_for(article.short_description) for article in newswire.evaluation_articles()]


@pytest.fixture(scope="module")
def spec() -> EngineSpec:
    model = resolve("embedded", "--model")
    return EngineSpec(model, None, model, "cpu", "float32", ranks=2)


@pytest.fixture(scope="module")
def alone(spec: EngineSpec) -> Iterator[Worker]:
    worker = Worker(techniques()["kv-cache"], spec, timeout=300)
    yield worker
    worker.close()


@pytest.fixture(scope="module", params=["transformers", "compiled"])
def split(request: pytest.FixtureRequest, spec: EngineSpec) -> Iterator[Worker]:
    worker = Worker(techniques()["tensor-parallel"], replace(spec, engine=request.param), timeout=300)
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def expected(alone: Worker, prompts: list[str]) -> list[tuple[int, ...]]:
    return [g.token_ids for g in alone.call("generate", prompts, BATCH)]


def test_all_headlines_are_those_of_one_rank_token_by_token(
    split: Worker, prompts: list[str], expected: list[tuple[int, ...]]
) -> None:
    assert [g.token_ids for g in split.call("generate", prompts, BATCH)] == expected


def test_one_article_at_a_time_they_are_too(split: Worker, prompts: list[str], expected: list[tuple[int, ...]]) -> None:
    assert [split.call("generate", [prompt])[0].token_ids for prompt in prompts[:10]] == expected[:10]


def test_all_ranks_say_the_same(split: Worker, prompts: list[str]) -> None:
    first, second = ([g.token_ids for g in made] for made in split.call_all("generate", prompts[:8]))
    assert first == second


def test_likelihood_is_that_of_one_rank(split: Worker, alone: Worker, prompts: list[str]) -> None:
    headlines = ["Harbour Reopens After Storm", "Nine Winners"]
    ours, theirs = (worker.call("likelihood", prompts[:2], headlines) for worker in (split, alone))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_each_rank_holds_half_of_the_model_and_the_keys_that_its_queries_read(split: Worker, alone: Worker) -> None:
    whole = alone.info
    for info in split.infos:
        assert info.weights_bytes <= 0.55 * whole.weights_bytes
        assert info.parameters == whole.parameters
        assert info.head_parameters == whole.head_parameters / 2
        assert info.layer_parameters <= 0.55 * whole.layer_parameters


def test_the_share_of_communication_is_one(split: Worker, prompts: list[str]) -> None:
    assert 0 < split.call("communication_share", prompts[:3]) < 1


@pytest.mark.parametrize("engine", ["transformers", "compiled"])
def test_ranks_share_a_key_value_head_where_there_are_fewer_heads(
    tmp_path, main_checkpoint, tokenizer, prompts: list[str], engine: str
) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
    config = LlamaConfig(**shape, num_key_value_heads=2, head_dim=16, vocab_size=4096, tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = []
    for name, ranks in (("kv-cache", 1), ("tensor-parallel", 4)):
        spec = EngineSpec(str(tmp_path), None, "", "cpu", "float32", 8, engine, ranks)
        worker = Worker(techniques()[name], spec, timeout=120)
        made.append([g.token_ids for g in worker.call("generate", prompts[:6])])
        worker.close()
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("changes", "ranks", "reason"),
    [
        ({}, 3, "its 4 query and 1 key-value heads cannot be divided over 3 ranks"),
        ({"num_attention_heads": 12, "num_key_value_heads": 4}, 6, "its 12 query and 4 key-value heads cannot be"),
        ({"intermediate_size": 385}, 2, "its intermediate_size of 385 cannot be divided over 2 ranks"),
        ({"vocab_size": 4097}, 2, "its vocab_size of 4097 cannot be divided over 2 ranks"),
    ],
)
def test_a_model_that_cannot_be_divided_is_unsupported_and_says_the_numbers(
    main_checkpoint, changes: dict[str, int], ranks: int, reason: str
) -> None:
    config = LlamaConfig.from_pretrained(main_checkpoint)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(Unsupported, match=reason):
        parallel.prepare(config, ranks)


def test_a_model_that_transformers_has_no_plan_for_is_unsupported(main_checkpoint) -> None:
    config = LlamaConfig.from_pretrained(main_checkpoint)
    config.base_model_tp_plan = None
    with pytest.raises(Unsupported, match="transformers has no plan to split a llama model over ranks"):
        parallel.prepare(config, 2)


def test_it_needs_two_ranks(spec: EngineSpec) -> None:
    technique = techniques()["tensor-parallel"]
    assert technique.unavailable(spec) is None
    assert technique.unavailable(replace(spec, ranks=1)) == "it needs two ranks: a second GPU, or --device cpu"
