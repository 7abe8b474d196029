"""Finding and loading checkpoints."""

import json
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from udaciheadline.checkpoints import models
from udaciheadline.records import UsageError
from udaciheadline.workers.processes import redact

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0f1e2d\nsize 93\n"
TOKEN = "hf_" + "NotARealToken0123456789"


@pytest.fixture
def hub(monkeypatch, write):
    """The calls made to the hub; `hub.error` is what it raises, None for an answer: a file with `hub.config`."""
    hub = SimpleNamespace(error=None, calls=[], config={"model_type": "llama"})

    def hf_hub_download(*args, **kwargs):
        hub.calls.append(args)
        if hub.error:
            raise hub.error
        return write("config.json", json.dumps(hub.config))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return hub


def hub_http_error(kind):
    """An error as the hub client raises it, with the token in what the server said."""
    response = SimpleNamespace(headers={}, request=None)
    return kind(f"401 Client Error.\nAuthorization: Bearer {TOKEN}", response=response)


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def in_shards(folder):
    """The weights in two files and their index; their layers alternate."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for file in set(shards.values()):
        own = {name: weights[name] for name in weights if shards[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def load(checkpoint, **options):
    return models.load_model(str(checkpoint), **{"device": "cpu", "dtype": "float32"} | options)


# -- resolve: embedded and folders -----------------------------------------------------------------------------------


def test_embedded_means_the_main_model_and_in_the_role_of_the_target_the_larger_one(no_hub):
    main, target = models.resolve("embedded", "--model"), models.resolve("embedded", "--target", "target")
    assert load(main).num_parameters() < load(target).num_parameters()


def test_a_checkpoint_folder_is_itself(main_copy, no_hub):
    assert models.resolve(str(main_copy), "--model") == str(main_copy)


def test_a_checkpoint_in_several_files_is_a_checkpoint(main_copy, no_hub):
    in_shards(main_copy)
    assert models.resolve(str(main_copy), "--model") == str(main_copy)


def without_config(folder):
    (folder / "config.json").unlink()


def with_broken_config(folder):
    (folder / "config.json").write_text("{")


def with_binary_config(folder):
    (folder / "config.json").write_bytes(b'"\xff"')


def with_pickled_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_a_pointer_to_weights(folder):
    (folder / "model.safetensors").write_text(POINTER)


def with_a_pointer_to_the_tokenizer(folder):
    (folder / "tokenizer.json").write_text(POINTER)


def without_the_index(folder):
    in_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def without_tokenizer_config(folder):
    (folder / "tokenizer_config.json").unlink()


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def with_a_truncated_tokenizer(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])


def quantised(kind):
    def spoil(folder):
        edit_json(folder / "config.json", quantization_config={"quant_method": kind, "bits": 4})

    spoil.__name__ = f"quantised_by_{kind}"
    return spoil


QUANTISATIONS = ("bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors")


@pytest.mark.parametrize("option", ["--model", "--target", "--draft"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_a_pointer_to_weights, "its model.safetensors is a git-lfs pointer"),
        (with_a_pointer_to_the_tokenizer, "its tokenizer.json is a git-lfs pointer"),
        (without_the_index, "neither model.safetensors nor model.safetensors.index.json"),
        (without_tokenizer_config, "no tokenizer_config.json"),
        (without_tokenizer, "no tokenizer.json"),
        (with_a_truncated_tokenizer, "tokenizer.json is not valid JSON"),
        *((quantised(kind), f"quantised already (its config.json says {kind})") for kind in QUANTISATIONS),
        (without_config, "no config.json"),
        (with_broken_config, "config.json is not valid JSON"),
        (with_binary_config, "config.json is not valid JSON"),
        (with_pickled_weights, "neither model.safetensors nor"),
    ],
)
def test_an_unusable_folder_is_a_usage_error_that_names_option_and_folder(main_copy, no_hub, option, spoil, reason):
    spoil(main_copy)
    with pytest.raises(UsageError) as caught:
        models.resolve(str(main_copy), option)
    message = str(caught.value)
    assert message.startswith(f"{option} {main_copy}: ")
    assert reason in message
    assert "\n" not in message


def test_a_file_is_no_checkpoint(main_copy, no_hub):
    with pytest.raises(UsageError, match=r"^--model .*model\.safetensors: it has no config\.json"):
        models.resolve(str(main_copy / "model.safetensors"), "--model")


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "two words", ""])
def test_a_name_that_can_be_no_hub_id_is_a_missing_folder_and_the_hub_is_not_asked(name, no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^--draft "):
        models.resolve(name, "--draft")


# -- resolve: shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shape:llama-3.2-1b", "shape:llama-3.2-3b", "shape:llama-3.1-8b"])
def test_a_shape_is_kept_and_remembers_the_role(name, no_hub):
    assert models.resolve(name, "--model") == models.resolve(name, "--draft") == f"{name}/main"
    assert models.resolve(name, "--target", "target") == f"{name}/target"


@pytest.mark.parametrize("name", ["shape:llama-4", "shape:", "shape:llama-3.2-1b/main"])
def test_an_unknown_shape_is_a_usage_error_that_names_the_option_and_the_choices(name, no_hub):
    with pytest.raises(UsageError) as caught:
        models.resolve(name, "--target", "target")
    choices = "shape:llama-3.2-1b, shape:llama-3.2-3b, shape:llama-3.1-8b"
    assert str(caught.value) == f"--target {name}: there is no such shape: choose from {choices}"


# -- resolve: hub ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.2-1B"])
def test_a_hub_id_is_kept_and_only_its_configuration_is_fetched(hub, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert models.resolve(name, "--model") == name
    assert hub.calls == [(name, "config.json")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            hub_http_error(errors.GatedRepoError),
            "gated: accept its terms on its hub page and set HF_TOKEN",
        ),
        (hub_http_error(errors.RepositoryNotFoundError), "no such folder here and no such model on the hub"),
        (hub_http_error(errors.RemoteEntryNotFoundError), "no config.json is cached here or reachable on the hub"),
        (errors.LocalEntryNotFoundError(f"offline\nBearer {TOKEN}"), "check the name and the network"),
        (OSError(f"no route to host\nBearer {TOKEN}"), "the hub does not give it (no route to host)"),
        (ValueError(""), "the hub does not give it (ValueError)"),
    ],
    ids=["gated", "missing", "no configuration", "unreachable", "anything else", "an error without a text"],
)
@pytest.mark.parametrize("option", ["--model", "--target"])
def test_a_hub_error_becomes_one_sentence_with_the_option_and_without_the_token(hub, option, error, reason):
    hub.error = error
    with pytest.raises(UsageError) as caught:
        models.resolve("someone/some-model", option)
    message = str(caught.value)
    assert message.startswith(f"{option} someone/some-model: ")
    assert reason in message
    assert "\n" not in message
    assert TOKEN not in message


def test_a_token_in_the_hubs_own_words_is_redacted_before_they_are_shown(hub):
    hub.error = ValueError(f"Illegal header value b'Bearer {TOKEN}'")
    with pytest.raises(UsageError) as caught:
        models.resolve("someone/some-model", "--model")
    shown = redact(str(caught.value))  # as conftest.py and the workers do with every message
    assert TOKEN[3:] not in shown
    assert shown.startswith("--model someone/some-model: the hub does not give it (Illegal header value")


@pytest.mark.parametrize("name", ["embedded", "shape:llama-3.2-1b"])
def test_resolving_imports_no_torch(name):
    resolving = f"from udaciheadline.checkpoints import models; models.resolve({name!r}, '--model')"
    code = f"import sys; {resolving}; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "udaciheadline.checkpoints.models" in output.split()
    assert not {"torch", "transformers"} & set(output.split())


@pytest.mark.parametrize("option", ["--model", "--target"])
def test_a_model_of_the_hub_that_is_quantised_already_is_refused_before_its_weights_are_fetched(hub, option):
    hub.config = {"quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(UsageError, match=r"gptq.*give the full-precision checkpoint") as caught:
        models.resolve("someone/some-model", option)
    assert str(caught.value).startswith(f"{option} someone/some-model: ")


# -- load_tokenizer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["main", "target"])
def test_a_shape_has_the_tokenizer_of_the_embedded_model_of_its_role(role, no_hub):
    grown = models.load_tokenizer(models.resolve("shape:llama-3.2-1b", "--model", role))
    own = models.load_tokenizer(models.resolve("embedded", "--model", role))
    assert grown.get_vocab() == own.get_vocab()
    assert (grown.pad_token_id, grown.eos_token_id) == (2, 1)


def test_a_broken_tokenizer_is_a_usage_error(main_copy):
    (main_copy / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="its tokenizer cannot be loaded") as caught:
        models.load_tokenizer(str(main_copy))
    assert "\n" not in str(caught.value)
