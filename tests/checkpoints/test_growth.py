"""Growing a small model to a published size without changing what it writes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from udaciheadline.checkpoints import growth, models
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.transformers import TransformersEngine
from udaciheadline.records import UsageError
from udaciheadline.techniques.quantization import bitsandbytes_config

TRUE_SHAPES = dict(growth.SHAPES)
REAL_TOKENS = 4096  # of the embedded models
PAIRS = ("llama-3.2-1b/main", "llama-3.2-3b/target", "llama-3.1-8b/main")  # each shape and each role


def shrunk(shape):
    """The shape with fewer of everything, but with its own head_dim, ratio of query to KV heads, and kind of head."""
    heads = 2 * shape.heads // shape.kv_heads  # 8 or 6, which must divide the hidden size
    return replace(shape, hidden=384, layers=9, intermediate=1024, vocabulary=4352, heads=heads, kv_heads=2)


@pytest.fixture(scope="module", autouse=True)
def shrunk_shapes():
    """Every shape is small enough for a test, and is loaded as the true ones are."""
    with pytest.MonkeyPatch.context() as patch:
        for name, shape in TRUE_SHAPES.items():
            patch.setitem(growth.SHAPES, name, shrunk(shape))
        yield


def embedded(role):
    folder = models.resolve(models.EMBEDDED, "--model", role)
    return LlamaConfig.from_pretrained(folder), load_file(f"{folder}/model.safetensors")


def grow(shape, role="main", dtype=torch.float32, **changes):
    config, state = embedded(role)
    for name, value in changes.items():
        setattr(config, name, value)
    return growth.grow(config, state, shape, device="cpu", dtype=dtype)


def load(name, role, dtype="float32", quantization=None):
    checkpoint = models.resolve(name, "--model", role)
    return models.load_model(checkpoint, device="cpu", dtype=dtype, quantization=quantization)


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    """An embedded model and what it grows to, in float32: `small`, `grown` and the `shape`."""
    name, role = request.param.split("/")
    small, grown = load(models.EMBEDDED, role), load(f"shape:{name}", role)
    return SimpleNamespace(small=small, grown=grown, shape=growth.SHAPES[name])


@torch.no_grad()
def logits(model, tokenizer, prompt):
    """(tokens, vocabulary)"""
    return model(tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0].float()


@pytest.fixture(scope="module")
def prompts(news):
    return [prompt_for(article.short_description) for article in news[:3]]


# -- what it writes --------------------------------------------------------------------------------------------------


def test_a_grown_model_writes_the_small_models_headlines_token_by_token(pair, tokenizer, prompts):
    small, grown = (TransformersEngine(model, tokenizer, max_new_tokens=25) for model in (pair.small, pair.grown))
    made, expected = (engine.generate(prompts) for engine in (grown, small))
    assert [generation.token_ids for generation in made] == [generation.token_ids for generation in expected]


def test_its_logits_are_the_small_models_up_to_a_constant_that_only_a_tied_head_has(pair, tokenizer, prompts):
    for prompt in prompts:
        difference = logits(pair.grown, tokenizer, prompt)[:, :REAL_TOKENS] - logits(pair.small, tokenizer, prompt)
        constant = difference.mean(-1, keepdim=True) if pair.shape.tied else 0
        assert (difference - constant).abs().max() < 1e-4
        assert difference.abs().max() < 0.04


def test_true_headlines_are_as_likely(pair, tokenizer, news, prompts):
    headlines = [article.headline for article in news[: len(prompts)]]
    small, grown = (
        TransformersEngine(model, tokenizer, max_new_tokens=1).texts.likelihood(prompts, headlines)
        for model in (pair.small, pair.grown)
    )
    assert grown == pytest.approx(small, abs=1e-4)


def test_no_surplus_token_can_win_after_a_lone_token_or_a_prompt(pair, tokenizer, prompts):
    with torch.no_grad():
        found = [pair.grown(torch.arange(0, REAL_TOKENS, 16)[:, None]).logits[:, 0]]
    for rows in found + [logits(pair.grown, tokenizer, prompt) for prompt in prompts]:
        assert rows.shape[1] == pair.shape.vocabulary > REAL_TOKENS
        surplus, real = rows[:, REAL_TOKENS:], rows[:, :REAL_TOKENS]
        assert surplus.max() < -200
        assert real.min() > -20
        assert (surplus.logsumexp(-1) - real.logsumexp(-1)).exp().max() == 0


@pytest.mark.parametrize(("role", "dtype"), [("main", "float16"), ("target", "float16"), ("target", "bfloat16")])
def test_half_precision_holds_all_its_numbers_and_favours_the_same_tokens(tokenizer, prompts, role, dtype):
    small, grown = load(models.EMBEDDED, role, dtype), load("shape:llama-3.2-3b", role, dtype)
    assert {p.dtype for p in grown.parameters()} == {getattr(torch, dtype)}
    for prompt in prompts:
        expected, found = logits(small, tokenizer, prompt)[-1], logits(grown, tokenizer, prompt)[-1]
        assert found.isfinite().all()
        assert found.argmax() == expected.argmax()


@pytest.mark.parametrize(("kind", "name"), [("int8", "llama-3.1-8b"), ("nf4", "llama-3.2-1b")])
def test_a_grown_model_can_be_quantised_and_stays_nearly_as_good(tokenizer, news, prompts, kind, name):
    quantised = load(f"shape:{name}", "main", quantization=bitsandbytes_config(kind, "float32"))
    assert {p.dtype for p in quantised.model.layers[0].mlp.parameters()} <= {torch.int8, torch.uint8}
    assert logits(quantised, tokenizer, prompts[0]).isfinite().all()
    headlines = [article.headline for article in news[: len(prompts)]]
    before, after = (
        sum(TransformersEngine(model, tokenizer, max_new_tokens=1).texts.likelihood(prompts, headlines)) / len(prompts)
        for model in (load(models.EMBEDDED, "main"), quantised)
    )
    assert abs(after - before) < 0.1


# -- how ------------------------------------------------------------------------------------------------------------


def layers_that_add(model, tokenizer, prompt):
    """The layers whose attention or MLP adds anything but exact zeros."""
    found = set()
    for index, layer in enumerate(model.model.layers):
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            part.register_forward_hook(lambda _, __, added, index=index: found.add(index) if added.any() else None)
    logits(model, tokenizer, prompt)
    return found


def test_the_small_models_layers_are_spread_evenly_and_the_others_add_exactly_nothing(pair, tokenizer, prompts):
    layers = len(pair.small.model.layers)
    expected = {i * pair.shape.layers // layers for i in range(layers)}
    assert layers_that_add(pair.grown, tokenizer, prompts[0]) == expected


@torch.no_grad()
def test_of_the_surplus_channels_only_the_signal_is_not_zero_and_no_layer_changes_it(pair, tokenizer, prompts):
    ids, h = tokenizer(prompts[0], return_tensors="pt")["input_ids"], pair.small.config.hidden_size
    for hidden in pair.grown(ids, output_hidden_states=True).hidden_states[:-1]:  # the last is behind the final norm
        assert (hidden[..., h] == growth.SIGNAL).all()
        assert not hidden[..., h + 1 :].any()


def test_the_rotary_frequencies_of_the_small_heads_are_among_those_of_the_large(pair):
    small, grown = pair.small.model.rotary_emb.inv_freq, pair.grown.model.rotary_emb.inv_freq
    assert grown.dtype == torch.float32
    torch.testing.assert_close(grown[:: len(grown) // len(small)], small)


def test_most_weights_of_a_layer_are_not_zero():
    _, weights = grow(TRUE_SHAPES["llama-3.2-1b"], dtype=torch.bfloat16)
    for layer in (0, 1):  # with and without a small layer in it
        for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            weight = weights[f"model.layers.{layer}.{name}.weight"][...]
            assert (weight == 0).float().mean() < 0.13


def test_growing_twice_gives_the_same_weights_and_no_two_matrices_share_their_noise():
    (_, first), (_, second) = grow(growth.SHAPES["llama-3.1-8b"]), grow(growth.SHAPES["llama-3.1-8b"])
    assert all(torch.equal(weight[...], second[name][...]) for name, weight in first.items())
    up, gate = (first[f"model.layers.1.mlp.{part}_proj.weight"][...] for part in ("up", "gate"))
    assert not (up == gate).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_weight_is_made_in_the_dtype_asked_for_and_in_its_final_size(dtype):
    config, weights = grow(growth.SHAPES["llama-3.1-8b"], dtype=dtype)
    with torch.device("meta"):
        expected = LlamaForCausalLM(config).state_dict()
    assert {name: weight[...].shape for name, weight in weights.items()} == {n: w.shape for n, w in expected.items()}
    assert {weight[...].dtype for weight in weights.values()} == {dtype}


# -- the shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama-3.2-1b", 1_235_814_400), ("llama-3.2-3b", 3_212_749_824), ("llama-3.1-8b", 8_030_261_248)],
)
def test_a_shape_has_as_many_parameters_as_the_published_model(name, parameters):
    config, _ = grow(TRUE_SHAPES[name])
    with torch.device("meta"):
        assert LlamaForCausalLM(config).num_parameters() == parameters


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama-3.2-1b", (2048, 16, 32, 8, 64, 8192, 128256, True)),
        ("llama-3.2-3b", (3072, 28, 24, 8, 128, 8192, 128256, True)),
        ("llama-3.1-8b", (4096, 32, 32, 8, 128, 14336, 128256, False)),
    ],
)
@pytest.mark.parametrize("role", ["main", "target"])
def test_the_configuration_has_the_published_sizes_and_the_small_models_tokens_and_rotary_embedding(
    name, published, role
):
    config, _ = grow(TRUE_SHAPES[name], role)
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
    found += (config.head_dim, config.intermediate_size, config.vocab_size, config.tie_word_embeddings)
    assert found == published
    small, _ = embedded(role)
    assert config.rope_parameters == small.rope_parameters
    assert (config.eos_token_id, config.pad_token_id) == (small.eos_token_id, small.pad_token_id) == (1, 2)
    assert 0 < config.rms_norm_eps < small.rms_norm_eps


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"hidden": 128, "heads": 8}, "it needs 129 hidden channels, and the shape has 128"),
        ({"layers": 3}, "it needs 4 layers, and the shape has 3"),
        ({"kv_heads": 1, "heads": 3}, "it needs 2 KV heads, and the shape has 1"),
        ({"intermediate": 383}, "it needs 384 MLP channels, and the shape has 383"),
        ({"vocabulary": 4095}, "it needs 4096 tokens, and the shape has 4095"),
        ({"head_dim": 96}, "heads of 64 do not divide the shape's of 96"),
    ],
)
def test_a_model_that_does_not_fit_into_the_shape_is_refused_in_one_sentence(sizes, reason):
    shape = replace(growth.SHAPES["llama-3.2-1b"], **sizes)
    with pytest.raises(UsageError, match=f"^the model cannot be grown: {reason}$"):
        grow(shape)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mlp_bias": True}, "it has biases, and the shape has none"),
        ({"tie_word_embeddings": False}, "its head is a matrix of its own, and the shape's is the embedding"),
        ({"rms_norm_eps": 1e-6}, "its rms_norm_eps of 1e-06 is too small"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_sentence(changes, reason):
    with pytest.raises(UsageError, match=f"^the model cannot be grown: {reason}$"):
        grow(growth.SHAPES["llama-3.2-1b"], **changes)
