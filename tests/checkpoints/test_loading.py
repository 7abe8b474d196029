"""Models that are loaded, and checkpoints that cannot be."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_models import edit_json, in_shards, load, with_pickled_weights

from udaciheadline.checkpoints import growth, models
from udaciheadline.checkpoints.division import Stage
from udaciheadline.records import UsageError


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_loaded_in_the_dtype_asked_for_ready_for_inference(main_checkpoint, dtype):
    model = load(main_checkpoint, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training


def test_the_weights_are_those_of_the_file(main_checkpoint):
    weights = load_file(f"{main_checkpoint}/model.safetensors")
    loaded = load(main_checkpoint).state_dict()
    assert weights.keys() <= loaded.keys()
    for name, weight in weights.items():
        assert torch.equal(loaded[name], weight.float()), name


STAGES = [Stage(range(0, 1), 4), Stage(range(1, 4), 4)]


def in_one_file(folder):
    pass


def in_one_file_beside_other_weights(folder):
    in_shards(folder)
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: torch.zeros_like(weight) for name, weight in weights.items()}, file)
    save_file(load_file(f"{models.resolve('embedded', '--model')}/model.safetensors"), folder / "model.safetensors")


def in_shards_beside_other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    in_shards(folder)
    save_file({name: torch.zeros_like(weights[name]) for name in weights}, folder / "model-fp32.safetensors")


@pytest.mark.parametrize("lay_out", [in_one_file, in_one_file_beside_other_weights, in_shards_beside_other_weights])
def test_the_stages_of_a_pipeline_load_the_weights_that_the_whole_model_loads(main_copy, main_checkpoint, lay_out):
    lay_out(main_copy)
    expected = load(main_checkpoint).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in load(main_copy).state_dict().items())
    for stage in STAGES:
        part = load(main_copy, stage=stage)
        assert len(part.model.layers) == part.config.num_hidden_layers == len(stage.layers)
        for layer, number in zip(part.model.layers, stage.layers, strict=True):
            for name, weight in layer.state_dict().items():
                assert torch.equal(weight, expected[f"model.layers.{number}.{name}"]), (number, name)
        assert torch.equal(part.lm_head.weight, expected["lm_head.weight"])


def test_the_stages_of_a_model_that_was_saved_without_its_head_have_their_own_layers(main_copy):
    whole = load(main_copy)
    whole.model.save_pretrained(main_copy)
    part = load(main_copy, stage=STAGES[1])
    for layer, expected in zip(part.model.layers, whole.model.layers[1:], strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, expected.mlp.up_proj.weight)


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_a_damaged_file_beside_whole_shards_is_refused_by_the_model_and_by_each_stage(main_copy, stage):
    whole = (main_copy / "model.safetensors").read_bytes()
    in_shards(main_copy)
    (main_copy / "model.safetensors").write_bytes(whole[:100_000])
    with pytest.raises(UsageError, match="it cannot be loaded"):
        load(main_copy, stage=stage)


@pytest.fixture
def small_shape(monkeypatch):
    """The name of a shape that a test can load in no time."""
    shape = growth.Shape(192, 6, 4, 1, 64, 512, 5000, True)
    monkeypatch.setitem(growth.SHAPES, "small", shape)
    return "shape:small"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shape_is_loaded_like_a_checkpoint_and_ends_its_headlines_as_the_embedded_model_does(
    small_shape, no_hub, dtype
):
    model = load(models.resolve(small_shape, "--model"), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training
    assert model.config.hidden_size == 192
    assert model.lm_head.weight is model.model.embed_tokens.weight
    own = load(models.resolve("embedded", "--model"))
    assert model.generation_config.to_dict() == own.generation_config.to_dict()
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (1, 2)


def test_a_shape_that_the_embedded_model_does_not_fit_into_is_a_usage_error(monkeypatch):
    monkeypatch.setitem(growth.SHAPES, "tiny", growth.Shape(64, 1, 4, 1, 64, 64, 5000, True))
    with pytest.raises(UsageError, match="the model cannot be grown"):
        load(models.resolve("shape:tiny", "--model"))


def test_a_checkpoint_with_missing_weights_is_refused_and_one_of_them_named(main_copy):
    name = "model.layers.2.mlp.up_proj.weight"
    edit_weights(main_copy, lambda weights: weights.pop(name))
    with pytest.raises(UsageError, match="1 weights are missing") as caught:
        load(main_copy)
    assert name in str(caught.value)
    assert str(main_copy) in str(caught.value)


def test_a_checkpoint_with_weights_that_the_model_has_no_place_for_is_refused_and_one_of_them_named(main_copy):
    name = "model.layers.4.mlp.up_proj.weight"
    edit_weights(main_copy, lambda weights: weights.update({name: torch.ones(2), "score.weight": torch.ones(2)}))
    with pytest.raises(UsageError, match="2 weights have no place in it") as caught:
        load(main_copy)
    assert name in str(caught.value)
    assert str(caught.value).startswith(f"{main_copy}: ")


def test_the_rotary_frequencies_that_an_old_checkpoint_carries_are_ignored(main_copy, main_checkpoint):
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(32) for i in range(4)}
    edit_weights(main_copy, lambda weights: weights.update(old))
    expected = load(main_checkpoint).model.rotary_emb.inv_freq
    assert torch.equal(load(main_copy).model.rotary_emb.inv_freq, expected)


def with_a_wrong_shape(folder):
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))


def with_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def with_an_unknown_architecture(folder):
    edit_json(folder / "config.json", model_type="no-such-model", architectures=["NoSuchModel"])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_pickled_weights, "it cannot be loaded as a causal language model"),
        (with_a_wrong_shape, "it cannot be loaded as a causal language model"),
        (with_truncated_weights, "it cannot be loaded as a causal language model"),
        (with_an_unknown_architecture, "its configuration cannot be loaded"),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_is_a_usage_error_of_one_line(main_copy, spoil, reason):
    spoil(main_copy)
    with pytest.raises(UsageError) as caught:
        load(main_copy)
    message = str(caught.value)
    assert message.startswith(f"{main_copy}: {reason} (")
    assert "\n" not in message


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_running_out_of_memory_is_no_usage_error(main_checkpoint, monkeypatch, error):
    def from_pretrained(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    with pytest.raises(type(error)):
        load(main_checkpoint)


def test_code_in_a_checkpoint_is_never_run(main_copy, tmp_path):
    marker = tmp_path / "it-ran"
    (main_copy / "remote.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    auto_map = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
    for model_type in ("llama", "something-new"):
        edit_json(main_copy / "config.json", model_type=model_type, auto_map=auto_map)
        try:
            load(main_copy)
        except UsageError:
            continue
    assert not marker.exists()
