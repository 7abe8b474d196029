"""The main model in float32, divided over ranks that are processes on this CPU and talk through gloo."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from random_models import FAMILIES, of_family
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from udaciheadline.checkpoints import division, growth
from udaciheadline.checkpoints.models import load_model, resolve
from udaciheadline.data import newswire
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.compiled import CompiledEngine
from udaciheadline.records import EngineSpec, Unsupported, UsageError
from udaciheadline.techniques import techniques
from udaciheadline.techniques.pipeline_parallel import PROMPT_TOKENS, layer_costs
from udaciheadline.workers.worker import Worker

BATCH = 16
HEADLINES = ["Harbour Reopens After Storm", "Nine Winners"]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Of some evaluation articles: several batches, of which the last one is not full."""
    return [prompt_for(article.short_description) for article in newswire.evaluation_articles()[:40]]


@pytest.fixture(scope="module")
def spec() -> EngineSpec:
    model = resolve("embedded", "--model")
    return EngineSpec(model, None, model, "cpu", "float32", ranks=2)


@pytest.fixture(scope="module")
def alone(spec: EngineSpec) -> Iterator[Worker]:
    worker = Worker(techniques()["kv-cache"], spec, timeout=300)
    yield worker
    worker.close()


SPLIT = [("tensor-parallel", "transformers"), ("tensor-parallel", "compiled"), ("pipeline-parallel", "compiled")]


@pytest.fixture(scope="module", params=SPLIT, ids=map(" ".join, SPLIT))
def split(request: pytest.FixtureRequest, spec: EngineSpec) -> Iterator[Worker]:
    technique, engine = request.param
    worker = Worker(techniques()[technique], replace(spec, engine=engine), timeout=300)
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
    assert [split.call("generate", [prompt])[0].token_ids for prompt in prompts[:4]] == expected[:4]


def test_all_ranks_say_the_same(split: Worker, prompts: list[str]) -> None:
    first, second = ([g.token_ids for g in made] for made in split.call_all("generate", prompts[:8]))
    assert first == second


def test_likelihood_is_that_of_one_rank(split: Worker, alone: Worker, prompts: list[str]) -> None:
    ours, theirs = (worker.call("likelihood", prompts[:2], HEADLINES) for worker in (split, alone))
    assert ours == pytest.approx(theirs, abs=1e-4)


def running_ahead(technique: str, spec: EngineSpec) -> CompiledEngine:
    """As on a GPU, where a step is launched before the tokens of the one before it have been seen."""
    engine = techniques()[technique].build(spec)
    engine._lag = 1
    return engine


@pytest.mark.parametrize("technique", ["tensor-parallel", "pipeline-parallel"])
def test_a_step_that_was_launched_in_vain_leaves_nothing_behind(
    technique: str, spec: EngineSpec, alone: Worker, prompts: list[str], expected: list[tuple[int, ...]]
) -> None:
    spec = replace(spec, engine="compiled")
    worker = Worker(replace(techniques()[technique], build=partial(running_ahead, technique)), spec, timeout=60)
    made = [worker.call("generate", [prompt])[0].token_ids for prompt in prompts[:3]]
    made += [g.token_ids for g in worker.call("generate", prompts[3:24], 8)]
    judged = [each.call("likelihood", prompts[:2], HEADLINES) for each in (worker, alone)]
    worker.close()
    assert made == expected[:24]
    assert judged[0] == pytest.approx(judged[1], abs=1e-4)


def test_a_pass_of_a_few_texts_is_one_of_all_ranks(split: Worker, prompts: list[str], expected) -> None:
    """Fewer texts than micro-batches, and one more than rows: some stay empty."""
    assert [g.token_ids for g in split.call("generate", prompts[:3], 2)] == expected[:3]


def test_the_ranks_know_the_size_of_the_whole_model(split: Worker, alone: Worker) -> None:
    assert {info.parameters for info in split.infos} == {alone.info.parameters}


@pytest.mark.parametrize("split", SPLIT[:2], indirect=True, ids=map(" ".join, SPLIT[:2]))
def test_the_ranks_of_a_split_model_hold_half_of_it_each(split: Worker, alone: Worker) -> None:
    whole = alone.info
    for info in split.infos:
        assert info.weights_bytes <= 0.55 * whole.weights_bytes
        assert info.head_parameters == whole.head_parameters / 2
        assert info.layer_parameters <= 0.55 * whole.layer_parameters


@pytest.mark.parametrize("split", SPLIT[2:], indirect=True, ids=map(" ".join, SPLIT[2:]))
def test_the_stages_of_a_model_hold_all_layers_between_them(split: Worker, alone: Worker) -> None:
    first, last = split.infos
    assert first.layer_parameters + last.layer_parameters == pytest.approx(alone.info.layer_parameters, abs=1000)
    assert (first.head_parameters, last.head_parameters) == (0, alone.info.head_parameters)
    assert first.pass_bytes == last.pass_bytes == pytest.approx(alone.info.pass_bytes, abs=1000)


def test_the_share_of_communication_is_one(split: Worker, prompts: list[str]) -> None:
    for size in (None, 2):
        assert all(0 < share < 1 for share in split.call_all("communication_share", prompts[:2], size))


@pytest.mark.parametrize("split", SPLIT[2:], indirect=True, ids=map(" ".join, SPLIT[2:]))
def test_stages_work_on_different_micro_batches_at_the_same_time(split: Worker, prompts, tmp_path: Path) -> None:
    (_, first, _), (_, last, _) = split.call_all("profile", [prompts[:16]], 16, str(tmp_path / "trace.json.gz"))
    assert len(first) == len(last)
    assert any(a.name != b.name and a.start < b.end and b.start < a.end for a in first for b in last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank1.trace.json.gz", "trace.json.gz"]


@pytest.mark.parametrize("engine", ["transformers", "compiled"])
def test_ranks_share_a_key_value_head_where_there_are_fewer_heads(
    tmp_path, main_checkpoint, tokenizer, prompts: list[str], engine: str
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, num_key_value_heads=2, head_dim=16, vocab_size=4096, tie_word_embeddings=False)
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
        made.append([g.token_ids for g in worker.call("generate", prompts[:3])])
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
        division.prepare(config, ranks)


def test_a_model_that_transformers_has_no_plan_for_is_unsupported(main_checkpoint) -> None:
    config = LlamaConfig.from_pretrained(main_checkpoint)
    config.base_model_tp_plan = None
    with pytest.raises(Unsupported, match="transformers has no plan to split a llama model over ranks"):
        division.prepare(config, 2)


def test_they_need_two_ranks(spec: EngineSpec) -> None:
    for name in ("tensor-parallel", "pipeline-parallel"):
        technique = techniques()[name]
        assert technique.unavailable(spec) is None
        assert (
            technique.unavailable(replace(spec, ranks=1)) == "it needs two ranks: a second GPU, or --ranks 2 on a CPU"
        )


# -- stages ----------------------------------------------------------------------------------------------------------


def sizes(costs: list[float], ranks: int) -> list[int]:
    return [len(stage.layers) for stage in division.stages(costs, ranks)]


@pytest.mark.parametrize(
    ("costs", "ranks", "expected"),
    [
        ([1.0] * 8, 2, [4, 4]),
        ([1.0] * 7, 1, [7]),
        ([1.0] * 15 + [5.0], 2, [10, 6]),
        ([1.0, 1.0, 1.0, 9.0], 3, [1, 2, 1]),
        ([5.0, 1.0, 1.0, 1.0, 1.0, 4.0], 3, [1, 4, 1]),
    ],
)
def test_layers_are_divided_so_that_the_dearest_stage_is_cheap(
    costs: list[float], ranks: int, expected: list[int]
) -> None:
    assert sizes(costs, ranks) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 4))
def test_no_division_into_stages_has_a_cheaper_dearest_one(costs: list[int], ranks: int) -> None:
    assume(len(costs) >= ranks)
    made = division.stages(costs, ranks)
    assert [layer for stage in made for layer in stage.layers] == list(range(len(costs)))
    assert [stage.first for stage in made] == [True] + [False] * (ranks - 1)
    assert [stage.last for stage in made] == [False] * (ranks - 1) + [True]
    cuts = itertools.combinations(range(1, len(costs)), ranks - 1)
    cheapest = min(max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *cut, len(costs)))) for cut in cuts)
    assert max(sum(costs[i] for i in stage.layers) for stage in made) == cheapest


def test_more_ranks_than_layers_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="its 4 layers cannot be divided over 5 ranks: each needs one"):
        division.stages([1.0] * 4, 5)


def test_embedding_and_head_cost_something() -> None:
    config = LlamaConfig(**SHAPE, num_key_value_heads=2, head_dim=16, vocab_size=4096)
    first, last = layer_costs(config, new_tokens=20)
    layer = 2 * 32 * 16 * 10 + 3 * 32 * 64
    assert first == (layer + 32) * (PROMPT_TOKENS + 20)
    assert last == layer * (PROMPT_TOKENS + 20) + 32 * 4096 * 20


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_of_a_stage_has_its_layers_and_both_ends(tmp_path: Path, family: str) -> None:
    of_family(family, num_hidden_layers=4).save_pretrained(tmp_path)
    whole = load_model(str(tmp_path), device="cpu", dtype="float32")
    part = load_model(str(tmp_path), device="cpu", dtype="float32", stage=division.Stage(range(1, 3), 4))
    assert type(part) is type(whole)
    assert len(part.model.layers) == part.config.num_hidden_layers == 2
    for here, there in zip(part.model.layers, whole.model.layers[1:3], strict=True):
        for mine, theirs in zip(here.parameters(), there.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    assert torch.equal(part.lm_head.weight, whole.lm_head.weight)
    assert part.generation_config.eos_token_id == whole.generation_config.eos_token_id


@pytest.mark.parametrize(
    "part", [{}, {"stage": division.Stage(range(2), 4)}, {"share": division.Share(LlamaConfig(), 0, 2)}]
)
def test_weights_that_cannot_be_read_are_a_usage_error_of_a_part_too(main_copy: Path, part) -> None:
    (main_copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="it cannot be loaded as a causal language model"):
        load_model(str(main_copy), device="cpu", dtype="float32", **part)


def test_the_ranks_of_a_grown_model_get_their_parts_of_each_weight() -> None:
    shape = growth.Shape(256, 4, 8, 2, 64, 512, 8192, True)
    embedded = LlamaConfig.from_pretrained(resolve("embedded", "--model"))
    state = load_file(f"{resolve('embedded', '--model')}/model.safetensors")
    _, weights = growth.grow(embedded, state, shape, device="cpu", dtype=torch.float32)
    weight = weights["model.layers.0.mlp.up_proj.weight"]
    assert weight.get_shape() == [512, 256]
    part = weight[128:256, :64]
    assert torch.equal(part, weight[...][128:256, :64])
    assert part.untyped_storage().nbytes() == part.nbytes
