"""What each technique does to a model."""

import json

import bitsandbytes
import pytest
import torch
from random_models import SIZES, random_model, small
from transformers import GPT2Config, GPTNeoXConfig, MambaConfig, MixtralConfig, OPTConfig, PhiConfig, StaticCache

from udaciheadline.checkpoints.models import load_model
from udaciheadline.data.prompts import prompt_for
from udaciheadline.records import Unsupported, UsageError
from udaciheadline.techniques import REFERENCE, pruning, speculative
from udaciheadline.techniques.quantization import bitsandbytes_config

DEEP = SIZES | {"num_hidden_layers": 8}
QUANTISED = ["int8", "fp4", "nf4"]


@pytest.fixture
def model(main_checkpoint):
    return load_model(main_checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompt(news):
    return prompt_for(news[0].short_description)


# -- cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cached"), [("baseline", False), ("kv-cache", True)])
def test_only_the_baseline_runs_the_whole_text_again_for_each_token(build, prompt, name, cached):
    engine = build(name, max_new_tokens=3)
    lengths = []
    engine._model.model.layers[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    engine.generate([prompt])
    assert lengths[1:] == ([1, 1] if cached else [lengths[0] + 1, lengths[0] + 2])


def test_the_static_cache_row_gives_its_engine_a_static_cache(build, prompt):
    engine = build("static-cache")
    assert engine.generate([prompt])[0].token_ids == build(REFERENCE).generate([prompt])[0].token_ids
    assert isinstance(engine._caches[1], StaticCache)


# -- pruning ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["main", "target"])
def pruned(request, main_checkpoint, target_checkpoint):
    """Weights before, the model after, and how many layers a quarter is: 1 of 4, or 2 of 8."""
    checkpoint, quarter = (main_checkpoint, 1) if request.param == "main" else (target_checkpoint, 2)
    model = load_model(checkpoint, device="cpu", dtype="float32")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    reported = pruning.prune_magnitude(model)
    return before, model, quarter, reported


def mlp_names(quarter):
    return [f"model.layers.{i}.mlp.{p}_proj.weight" for i in range(quarter) for p in ("gate", "up", "down")]


def test_exactly_the_smallest_half_of_the_first_quarters_mlp_weights_becomes_zero(pruned):
    before, model, quarter, _ = pruned
    after = model.state_dict()
    old = torch.cat([before[name].flatten() for name in mlp_names(quarter)])
    new = torch.cat([after[name].flatten() for name in mlp_names(quarter)])
    gone = (new == 0) & (old != 0)
    assert int((new == 0).sum()) == len(old) // 2
    assert old[gone].abs().max() <= old[new != 0].abs().min()
    assert torch.equal(new[new != 0], old[new != 0])


def test_the_smallest_are_ranked_over_all_matrices_together(pruned):
    _, model, quarter, _ = pruned
    after = model.state_dict()
    shares = [float((after[name] == 0).float().mean()) for name in mlp_names(quarter)]
    assert max(shares) > 0.5 > min(shares)


def test_no_other_weight_is_touched(pruned):
    before, model, quarter, _ = pruned
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name in before.keys() - set(mlp_names(quarter)):
        assert torch.equal(after[name], before[name]), name


def test_the_masks_are_permanent_and_leave_neither_copies_nor_hooks(pruned):
    before, model, _, _ = pruned
    assert {name for name, _ in model.named_parameters()} <= before.keys()
    assert not [name for name, _ in model.named_buffers() if "mask" in name]
    assert not [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]


def test_the_sparsity_of_the_pruned_matrices_and_of_the_model_is_reported(pruned):
    _, model, quarter, reported = pruned
    matrices = [weight for name, weight in model.named_parameters() if name in mlp_names(quarter)]
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert reported == {
        "sparsity": pytest.approx(sum(int((m == 0).sum()) for m in matrices) / sum(m.numel() for m in matrices)),
        "model_sparsity": pytest.approx(zeros / sum(p.numel() for p in model.parameters())),
    }
    assert reported["sparsity"] == pytest.approx(0.5, abs=1e-6)


def test_the_amount_can_be_chosen(model):
    assert pruning.prune_magnitude(model, amount=0.25)["sparsity"] == pytest.approx(0.25, abs=1e-5)


def test_the_pruned_row_runs_a_pruned_model_and_reports_its_sparsity(build):
    engine, reference = build("pruned"), build("kv-cache")
    gate = engine._model.model.layers[0].mlp.gate_proj.weight
    assert 0.3 < float((gate == 0).float().mean()) < 0.7
    assert engine.info.details["sparsity"] == pytest.approx(0.5, abs=1e-6)
    assert 0 < engine.info.details["model_sparsity"] < 0.5
    assert engine.info.weights_bytes == reference.info.weights_bytes


@pytest.mark.parametrize(
    ("config", "projections"),
    [
        (GPT2Config(n_embd=32, n_layer=8, n_head=2, vocab_size=100), ["mlp.c_fc", "mlp.c_proj"]),
        (GPTNeoXConfig(**DEEP), ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
        (PhiConfig(**DEEP), ["mlp.fc1", "mlp.fc2"]),
        (OPTConfig(**DEEP, ffn_dim=48, word_embed_proj_dim=32), ["fc1", "fc2"]),
        (small(num_hidden_layers=8), ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)  # fmt: skip
def test_the_projections_of_an_mlp_are_found_whatever_they_are_called(config, projections):
    model = random_model(config)
    before = {name: module.weight.clone() for name, module in model.named_modules() if hasattr(module, "weight")}
    reported = pruning.prune_magnitude(model)
    after = dict(model.named_modules())
    changed = [name for name, weight in before.items() if not torch.equal(after[name].weight, weight)]
    assert sorted(name.partition("layers.")[2] or name.partition(".h.")[2] for name in changed) == sorted(
        f"{layer}.{name}" for layer in range(2) for name in projections
    )
    assert reported["sparsity"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(hidden_size=32, num_hidden_layers=4, state_size=4, vocab_size=100),
        MixtralConfig(**SIZES, num_local_experts=2),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_without_an_mlp_of_plain_matrices_is_unsupported(config):
    reason = f"its {config.model_type} layers have no MLP of plain matrices to prune"
    with pytest.raises(Unsupported, match=f"^{reason}$"):
        pruning.prune_magnitude(random_model(config))


# -- quantisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUANTISED)
def test_every_linear_layer_but_the_head_is_a_bitsandbytes_layer_of_that_kind(build, kind):
    model = build(kind)._model
    layer_type = bitsandbytes.nn.Linear8bitLt if kind == "int8" else bitsandbytes.nn.Linear4bit
    linear = [m for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 7 * len(model.model.layers)
    assert {type(layer) for layer in linear} == {layer_type}
    assert type(model.lm_head) is torch.nn.Linear
    assert model.model.embed_tokens.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bits_have_the_codes_of_that_kind_and_compute_in_the_rows_dtype(build, kind, dtype):
    layer = build(kind, dtype=dtype)._model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == layer.in_features * layer.out_features / 2
    assert layer.weight.quant_state.quant_type == kind
    assert layer.weight.quant_state.blocksize == 64
    assert layer.compute_dtype == getattr(torch, dtype)


def test_eight_bits_are_integers(build):
    weight = build("int8")._model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.int8
    assert weight.float().abs().amax(dim=1).eq(127).all()  # each row is scaled to the whole range


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_unpacked_weights_are_close_to_the_original_ones(main_checkpoint, model, kind):
    # Fresh from loading: a first pass on a CPU packs them in another way.
    quantization = bitsandbytes_config(kind, "float32")
    quantised = load_model(main_checkpoint, device="cpu", dtype="float32", quantization=quantization)
    weight = quantised.model.layers[1].mlp.down_proj.weight
    original = model.model.layers[1].mlp.down_proj.weight
    unpacked = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    assert (unpacked - original).norm() / original.norm() < 0.2


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_row_is_smaller_than_the_reference(build, kind):
    assert build(kind).info.weights_bytes < build(REFERENCE).info.weights_bytes


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_row_writes_headlines(build, prompt, kind):
    assert build(kind).generate([prompt])[0].headline


# -- target and speculative ------------------------------------------------------------------------------------------


def test_the_target_row_runs_the_target_alone(build, prompt):
    engine = build("target")
    assert engine._model.config.num_hidden_layers == 8
    assert engine.generate([prompt])[0].drafted == 0


def test_the_speculative_row_runs_the_target_with_the_draft_model(build, prompt, main_checkpoint):
    engine = build("speculative", model="not used", draft=main_checkpoint)
    generation = engine.generate([prompt])[0]
    assert generation.token_ids == build("target").generate([prompt])[0].token_ids
    assert engine._model.config.num_hidden_layers == 8
    assert generation.drafted > 0


def test_a_round_drafts_as_many_tokens_as_the_module_says(build, prompt, target_checkpoint):
    twin = build("speculative", max_new_tokens=speculative.DRAFT_TOKENS + 1, draft=target_checkpoint)
    generation = twin.generate([prompt])[0]
    assert generation.drafted == generation.accepted == speculative.DRAFT_TOKENS


def swap_two_tokens(vocabulary):
    first, second = (token for token, i in vocabulary.items() if i in (300, 301))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def add_a_token(vocabulary):
    vocabulary["zzz"] = len(vocabulary)


@pytest.mark.parametrize("change", [swap_two_tokens, add_a_token])
def test_speculative_decoding_refuses_a_draft_with_another_vocabulary(build, main_copy, target_checkpoint, change):
    path = main_copy / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    change(content["model"]["vocab"])
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UsageError, match="its vocabulary is not that of --target") as caught:
        build("speculative", draft=str(main_copy))
    assert str(caught.value).startswith(f"--draft {main_copy}: ")
    assert target_checkpoint in str(caught.value)
