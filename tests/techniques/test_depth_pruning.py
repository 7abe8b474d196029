"""Layers that are removed: which, and what is left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_made import made
from random_models import FAMILIES, of_family
from transformers import AutoModelForCausalLM

from udaciheadline.checkpoints.models import load_model, load_tokenizer
from udaciheadline.data import newswire
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.records import Unsupported
from udaciheadline.techniques import depth_pruning
from udaciheadline.techniques.depth_pruning import prune_depth

TOKENS = torch.arange(60).view(2, 30) % 97


def loss_of(model: Any) -> Callable[[], float]:
    """How far the model has moved from what it is now; it counts in `loss.asked` how often it is asked. (The likelihood
    of a text means nothing to random weights.)"""
    whole = logits(model)

    def loss() -> float:
        loss.asked += 1  # type: ignore[attr-defined]
        return torch.nn.functional.mse_loss(logits(model), whole).item()

    loss.asked = 0  # type: ignore[attr-defined]
    return loss


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


def silence(layer: Any) -> None:
    """Has a layer add nothing, so that nobody misses it."""
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down_proj.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_that_nobody_misses_are_removed(family: str) -> None:
    model = of_family(family, num_hidden_layers=6)
    silent = [1, 4]
    for layer in silent:
        silence(model.model.layers[layer])
    others = [layer for i, layer in enumerate(model.model.layers) if i not in silent]
    before = logits(model)
    details = prune_depth(model, loss_of(model), share=1 / 3)
    assert list(model.model.layers) == others
    assert details == {"layers_left": 4, "pruning_nats": pytest.approx(0, abs=1e-6)}
    torch.testing.assert_close(logits(model), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_is_saved_loaded_and_run_with_a_cache_like_any_other_model(family: str, tmp_path: Any) -> None:
    model = of_family(family, num_hidden_layers=4)
    prune_depth(model, loss_of(model), share=0.3)
    assert model.config.num_hidden_layers == len(model.model.layers) == 2
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(len(model.model.layers)))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(model))
    torch.testing.assert_close(Llama(loaded, 64)(TOKENS), logits(model), rtol=1e-4, atol=1e-4)
    ways = [model.generate(TOKENS[:1], max_new_tokens=6, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*ways)


@pytest.mark.parametrize(("layers", "left"), [(2, 1), (4, 3), (5, 3)])
def test_a_quarter_of_the_layers_is_removed_or_a_few_more(layers: int, left: int) -> None:
    model = of_family("llama", num_hidden_layers=layers)
    prune_depth(model, loss_of(model))
    assert len(model.model.layers) == left


def test_a_layer_is_asked_again_only_where_it_may_be_the_cheapest() -> None:
    model = of_family("llama", num_hidden_layers=8)
    for layer in model.model.layers[2:5]:
        silence(layer)
    loss = loss_of(model)
    prune_depth(model, loss, share=3 / 8)
    assert len(model.model.layers) == 5
    assert loss.asked < 1 + 8 + 7 + 6  # type: ignore[attr-defined]


def test_a_model_of_one_layer_keeps_it() -> None:
    model = of_family("llama", num_hidden_layers=1)
    with pytest.raises(Unsupported, match=r"^it has a single layer, and no depth to prune$"):
        prune_depth(model, loss_of(model))


def test_another_family_is_refused(tmp_path: Any) -> None:
    model = load_model(str(made("gpt2", tmp_path)), device="cpu", dtype="float32")
    with pytest.raises(Unsupported, match=r"^it is a gpt2 model"):
        prune_depth(model, lambda: 0.0)


# -- once -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How often layers were searched for, with nothing kept yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[int] = []
    monkeypatch.setattr(depth_pruning, "prune_depth", lambda *given: made.append(1) or prune_depth(*given))
    return made


def pruned(checkpoint: Path, articles: int = 2) -> tuple[Any, dict[str, float]]:
    """The main model without a quarter of its layers, by so many articles, and what is said of that."""
    model = load_model(str(checkpoint), device="cpu", dtype="float32")
    chosen = list(newswire.training_articles(articles, seed=1))
    return model, depth_pruning.prune_once(model, load_tokenizer(str(checkpoint)), chosen)


def test_the_second_time_the_layers_are_known(searches: list[int], main_checkpoint: Path) -> None:
    (first, details), (second, again) = pruned(main_checkpoint), pruned(main_checkpoint)
    assert (len(searches), again) == (1, details)
    assert torch.equal(logits(first), logits(second))
    assert [layer.self_attn.layer_idx for layer in second.model.layers] == [0, 1, 2]


def test_by_other_articles_they_are_searched_for_anew(searches: list[int], main_checkpoint: Path) -> None:
    pruned(main_checkpoint)
    pruned(main_checkpoint, articles=3)
    assert len(searches) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff"], ids=["empty", "torn", "no text"])
def test_what_is_damaged_is_found_out_anew_and_mended(
    searches: list[int], main_checkpoint: Path, tmp_path: Path, damage: bytes
) -> None:
    pruned(main_checkpoint)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    for _ in range(2):
        pruned(main_checkpoint)
    assert len(searches) == 2


def test_without_a_place_to_keep_them_they_are_searched_for_each_time(
    searches: list[int], main_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "udaciheadline").write_text("no folder")
    for _ in range(2):
        pruned(main_checkpoint)
    assert len(searches) == 2
