"""Models that do not divide, and those of other families, over ranks that are processes on this CPU."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_models import FAMILIES, of_family, small
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen2Config

from udaciheadline.checkpoints import division, growth
from udaciheadline.checkpoints.division import Share
from udaciheadline.checkpoints.models import load_model
from udaciheadline.data import newswire
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines import Engine
from udaciheadline.records import BuildInfo, EngineSpec, Unsupported
from udaciheadline.techniques import techniques
from udaciheadline.workers.worker import Worker

ODD = {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 77}
FEW = {"num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 41}  # fewer key-value heads than ranks
HEADLINES = ["Harbour Reopens After Storm", "Nine Winners"]


class Several:
    """One engine after another, each built when it is its turn: one worker is enough for all of them."""

    def __init__(self, technique: str, specs: list[EngineSpec]) -> None:
        self._technique, self._specs = technique, specs
        self.info = BuildInfo(0, 0)

    def generate(self, prompts: list[str], batch_size: int | None = None) -> Any:
        """What each says: tokens one by one and as a job, likelihoods, and of itself."""
        return [self._all_of(techniques()[self._technique].build(spec), prompts, batch_size) for spec in self._specs]

    @property
    def texts(self) -> Any:
        return SimpleNamespace(check=None, fitting=None, likelihood=None, preferences=None, rounding=None)

    def shape(self, prompt: str) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def _all_of(self, engine: Engine, prompts: list[str], batch_size: int | None) -> Any:
        alone = [engine.generate([prompt])[0].token_ids for prompt in prompts[:3]]
        job = [g.token_ids for g in engine.generate(prompts, batch_size)]
        return alone, job, engine.texts.likelihood(prompts[:2], HEADLINES), engine.info


def several(technique: str, models: list[str], spec: EngineSpec) -> Engine:
    return Several(technique, [replace(spec, model=model) for model in models])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """A model of each family that does not divide by two, and one with fewer key-value heads than ranks."""
    made = {}
    configs = {**{family: (family, ODD) for family in FAMILIES}, "few": ("qwen2", FEW)}
    for name, (family, sizes) in configs.items():
        model = of_family(family, **sizes, vocab_size=len(tokenizer) + 1, tie_word_embeddings=family != "mistral")
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[name] = str(folder)
    return made


@pytest.fixture(scope="module")
def said(folders: dict[str, str]) -> Callable[[str, int], list[dict[str, Any]]]:
    """What each rank of a technique says of each model."""
    prompts = [prompt_for(article.short_description) for article in newswire.evaluation_articles()[:12]]

    @cache
    def said(technique: str, ranks: int) -> list[dict[str, Any]]:
        spec = EngineSpec("", None, "", "cpu", "float32", 8, "compiled", ranks)
        build = partial(several, technique, list(folders.values()))
        worker = Worker(replace(techniques()[technique], build=build), spec, timeout=120)
        found = worker.call_all("generate", prompts, 5)
        worker.close()
        return [dict(zip(folders, each, strict=True)) for each in found]

    return said


@pytest.fixture(scope="module")
def reference(said: Any) -> dict[str, Any]:
    (found,) = said("kv-cache", 1)
    return dict(found)


@pytest.mark.parametrize("technique", ["tensor-parallel", "pipeline-parallel"])
def test_two_ranks_write_what_one_writes(said: Any, reference: dict[str, Any], technique: str) -> None:
    for name, (alone, job, likelihood, info) in reference.items():
        assert len(set(job)) == 12, name
        for rank in said(technique, 2):
            assert rank[name][:2] == (alone, job), name
            assert rank[name][2] == pytest.approx(likelihood, abs=1e-4), name
            assert rank[name][3].parameters == info.parameters, name


def test_two_ranks_hold_the_model_between_them(said: Any, reference: dict[str, Any]) -> None:
    first, second = said("tensor-parallel", 2)
    for name, (*_, whole) in reference.items():
        held = [rank[name][3].weights_bytes / whole.weights_bytes for rank in (first, second)]
        assert max(held) < 0.6, name
        assert sum(held) < 1.05, name


# -- who gets what ---------------------------------------------------------------------------------------------------


def shares(ranks: int, **sizes: int) -> list[Share]:
    names = {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
    names |= {"channels": "intermediate_size", "tokens": "vocab_size"}
    config = Qwen2Config(**{names[name]: value for name, value in sizes.items()})
    return [Share(config, rank, ranks) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "expected"),
    [
        (9, 3, 2, [(6, 2), (3, 1)]),
        (32, 8, 2, [(16, 4), (16, 4)]),
        (14, 2, 4, [(4, 1), (3, 1), (4, 1), (3, 1)]),
        (4, 1, 3, [(2, 1), (1, 1), (1, 1)]),
        (9, 3, 4, [(2, 1), (1, 1), (3, 1), (3, 1)]),
    ],
)
def test_a_rank_has_whole_groups_or_queries_of_one(heads: int, kv_heads: int, ranks: int, expected: list) -> None:
    assert [tuple(map(len, s.heads)) for s in shares(ranks, heads=heads, kv_heads=kv_heads)] == expected


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(1, 200), st.integers(8, 200))
def test_every_head_channel_and_token_is_some_ranks(n: int, group: int, ranks: int, f: int, tokens: int) -> None:
    if n * group < ranks:
        return
    made = shares(ranks, heads=n * group, kv_heads=n, channels=f, tokens=tokens)
    assert [head for share in made for head in share.heads[0]] == list(range(n * group))
    assert [channel for share in made for channel in share.channels] == list(range(f))
    assert [token for own in made[0].tokens for token in own] == list(range(tokens))
    for share in made:
        queries, keys = share.heads
        assert {query // group for query in queries} == set(keys)
        assert len(queries) % len(keys) == 0
    sizes = [len(own) for own in made[0].tokens]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("channels", "ranks", "expected"),
    [(8192, 3, [2736, 2736, 2720]), (1536, 2, [768, 768]), (48, 2, [24, 24]), (385, 2, [193, 192])],
)
def test_channels_are_dealt_out_evenly_or_in_multiples_that_a_gpu_likes(channels: int, ranks: int, expected) -> None:
    assert [len(share.channels) for share in shares(ranks, channels=channels)] == expected


def test_fewer_query_heads_than_ranks_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="its 4 query heads cannot be divided over 5 ranks: each needs one"):
        shares(5, heads=4, kv_heads=2)


def test_a_rank_loads_its_part_and_keeps_nothing_of_the_others(folders: dict[str, str]) -> None:
    whole = load_model(folders["qwen2"], device="cpu", dtype="float32")
    share = Share(whole.config, 1, 2)
    part = load_model(folders["qwen2"], device="cpu", dtype="float32", share=share)
    d = 16
    theirs, mine = whole.model.layers[1], part.model.layers[1]
    assert torch.equal(mine.self_attn.q_proj.weight, theirs.self_attn.q_proj.weight[6 * d :])
    assert torch.equal(mine.self_attn.k_proj.bias, theirs.self_attn.k_proj.bias[2 * d :])
    assert torch.equal(mine.self_attn.o_proj.weight, theirs.self_attn.o_proj.weight[:, 6 * d :])
    assert torch.equal(mine.mlp.down_proj.weight, theirs.mlp.down_proj.weight[:, 39:])
    assert torch.equal(part.model.embed_tokens.weight, whole.model.embed_tokens.weight[len(share.tokens[0]) :])
    assert part.lm_head.weight is part.model.embed_tokens.weight
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in part.parameters())
    assert part.generation_config.eos_token_id == whole.generation_config.eos_token_id


def test_a_rank_of_a_grown_model_makes_its_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(growth.SHAPES, "tiny", growth.Shape(264, 4, 8, 4, 64, 513, 8193, True))
    whole = load_model("shape:tiny/main", device="cpu", dtype="float32")
    share = Share(whole.config, 0, 3)
    found = load_model("shape:tiny/main", device="cpu", dtype="float32", share=share).state_dict()
    assert found.keys() == whole.state_dict().keys()
    assert all(torch.equal(found[name], share.cut(name, weight)) for name, weight in whole.state_dict().items())


def test_a_rank_reads_the_files_that_transformers_reads(tmp_path: Path) -> None:
    """Those of the index, where there is no single one; whatever else lies there."""
    model = of_family("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    save_file({"model.norm.weight": torch.zeros(32)}, tmp_path / "model-fp32.safetensors")
    part = load_model(str(tmp_path), device="cpu", dtype="float32", share=Share(model.config, 0, 2))
    assert torch.equal(part.model.norm.weight, model.model.norm.weight)


def test_a_padding_token_that_is_another_ranks_is_none_of_this_one() -> None:
    config = small(Qwen2Config, pad_token_id=99)
    own = AutoModelForCausalLM.from_config(Share(config, 0, 2).config(config))
    assert own.model.embed_tokens.padding_idx is None


def test_shared_key_value_heads_of_transformers_keep_their_biases() -> None:
    model = of_family("qwen2", num_key_value_heads=2)
    expected = model.model.layers[0].self_attn.k_proj.bias[16:].clone()
    division.keep_own_heads(model, 2, 4)
    assert torch.equal(model.model.layers[0].self_attn.k_proj.bias, expected)
