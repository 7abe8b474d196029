"""MLP channels that are removed: which, and what is left."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models_made import made
from random_models import FAMILIES, of_family
from transformers import AutoModelForCausalLM

from udaciheadline.checkpoints.models import load_model
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.records import Unsupported
from udaciheadline.techniques import width_pruning
from udaciheadline.techniques.width_pruning import channel_importance, prune_width

TOKENS = torch.arange(60).view(2, 30) % 97


@pytest.fixture(autouse=True)
def multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough for the tiny models of these tests."""
    monkeypatch.setattr(width_pruning, "MULTIPLE", 8)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


def loss_of(model: Any) -> Callable[[], float]:
    return lambda: torch.nn.functional.cross_entropy(
        logits(model)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()
    ).item()


def mlp_share(model: Any) -> float:
    """Of the MLP in the weights of a layer; a little less, for rounding."""
    layer = model.model.layers[0]
    return 0.999 * sum(p.numel() for p in layer.mlp.parameters()) / sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_that_write_nothing_are_the_ones_that_go(family: str) -> None:
    model = of_family(family)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data[:, 1::2] = 0  # a half of the 48
    before = logits(model)
    details = prune_width(model, loss_of(model), share=24 / 48 * mlp_share(model))
    assert details == {"channels_left": 24, "pruning_nats": pytest.approx(0, abs=1e-6)}
    torch.testing.assert_close(logits(model), before)


def test_channels_that_are_not_active_go_whatever_they_would_write() -> None:
    model = of_family("llama")
    mlp = model.model.layers[0].mlp
    mlp.up_proj.weight.data[:8] = 0
    mlp.down_proj.weight.data[:, :8] *= 100
    kept = mlp.up_proj.weight.data[8:].clone()
    prune_width(model, loss_of(model), share=8 / 48 * mlp_share(model))
    assert torch.equal(mlp.up_proj.weight, kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_is_saved_loaded_and_run_like_any_other_model(family: str, tmp_path: Any) -> None:
    model = of_family(family)
    prune_width(model, loss_of(model))
    width = model.config.intermediate_size
    assert width < 48
    assert width % 8 == 0
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.model.layers[0].mlp.down_proj.weight.shape == (32, width)
    torch.testing.assert_close(logits(loaded), logits(model))
    torch.testing.assert_close(Llama(loaded, 64)(TOKENS), logits(model), rtol=1e-4, atol=1e-4)


def test_the_importance_of_a_channel_is_its_activations_times_the_norm_of_its_column() -> None:
    model = of_family("llama", num_hidden_layers=1)
    inputs: list[torch.Tensor] = []
    down = model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        hook = down.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        whole, (importance,) = channel_importance(model.model.layers, loss_of(model))
        hook.remove()
    assert whole == pytest.approx(loss_of(model)())
    torch.testing.assert_close(importance, inputs[0].abs().sum((0, 1)) * down.weight.detach().norm(dim=0))


def test_no_hook_is_left_behind() -> None:
    model = of_family("llama")
    prune_width(model, loss_of(model))
    assert not any(layer.mlp.down_proj._forward_pre_hooks for layer in model.model.layers)


def test_a_model_with_too_few_channels_is_refused() -> None:
    model = of_family("llama", intermediate_size=8)
    with pytest.raises(
        Unsupported, match=r"^its 8 MLP channels a layer are too few to remove 25% of its layers' weights$"
    ):
        prune_width(model, loss_of(model))


def test_another_family_is_refused(tmp_path: Any) -> None:
    model = load_model(str(made("gpt2", tmp_path)), device="cpu", dtype="float32")
    with pytest.raises(Unsupported, match=r"^it is a gpt2 model"):
        prune_width(model, lambda: 0.0)
