"""Finds a checkpoint before anything is built: embedded, a folder, a GGUF file, a hub id, or a shape.

It runs in the parent and imports no torch. What no row could load is refused here, once, in one sentence.
"""

import json
import logging
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from udaciheadline.checkpoints import gguf, growth
from udaciheadline.data.lfs import is_lfs_pointer
from udaciheadline.records import UsageError

EMBEDDED = "embedded"
SHAPE = "shape:"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""The names that transformers looks for, in this order; other .safetensors beside them are none of the model's."""

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""What tokenizers are kept in; one of them is enough."""


def resolve(name: str, option: str, role: str = "main") -> str:
    """The folder, GGUF file or hub id that `name` means; `role` says which embedded model ("main" or "target").

    A shape keeps its name and gets the role, "shape:llama-3.2-1b/main". `option` is the command-line option it came
    from. Raises UsageError where there is no such checkpoint, where it is damaged or quantised already, or the hub
    does not give it (gated, missing, unreachable).
    """
    if name == EMBEDDED:
        return embedded(role)
    if name.startswith(SHAPE):
        if name.removeprefix(SHAPE) not in growth.SHAPES:
            known = ", ".join(SHAPE + shape for shape in growth.SHAPES)
            raise UsageError(f"{option} {name}: there is no such shape: choose from {known}")
        return f"{name}/{role}"
    if name == gguf.SMOLLM2 or gguf.is_gguf(name):
        return gguf.find(name, option)
    path = Path(name)
    if path.exists():
        _check_folder(path, f"{option} {path}")
        return str(path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(
            f"{option} {name}: there is no such folder: give {EMBEDDED}, {gguf.SMOLLM2}, a checkpoint folder, "
            "a .gguf file or a hub id"
        )
    _check_precision(_json(_ask_hub(name, option), f"{option} {name}"), f"{option} {name}")
    return name


def embedded(role: str) -> str:
    """The folder of an embedded model."""
    return str(files("udaciheadline.checkpoints") / "embedded" / role)


def first_line(error: BaseException) -> str:
    """An error's text as part of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_folder(path: Path, what: str) -> None:
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{what}: it has no config.json: give a checkpoint folder in the Hugging Face layout, or a .gguf file"
        )
    for file in sorted([*path.glob("*.json"), *path.glob("*.safetensors")]):
        if is_lfs_pointer(file):
            raise UsageError(
                f"{what}: its {file.name} is a git-lfs pointer, not the file itself: run `git lfs pull` in its checkout"
            )
    config = _json(path / "config.json", what)
    _check_precision(config, what)
    if not any((path / name).is_file() for name in (config.get("transformers_weights"), *WEIGHTS) if name):
        raise UsageError(f"{what}: it has neither {' nor '.join(WEIGHTS)}: save it with save_pretrained")
    mend = "save its tokenizer there with save_pretrained"
    if not (path / "tokenizer_config.json").is_file():
        raise UsageError(f"{what}: it has no tokenizer_config.json: {mend}")
    if not any((path / name).is_file() for name in _VOCABULARIES):
        raise UsageError(f"{what}: it has no tokenizer.json: {mend}")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if (path / name).is_file():
            _json(path / name, what)


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise UsageError(f"{what}: its {path.name} is not valid JSON ({error}): save the checkpoint again") from error
    return content


def _check_precision(config: dict[str, Any], what: str) -> None:
    """Rows measure what becomes of a full-precision model: one that is quantised already is the end of that."""
    for part in (config, config.get("text_config")):
        quantization = isinstance(part, dict) and (part.get("quantization_config") or part.get("compression_config"))
        if quantization:
            kind = isinstance(quantization, dict) and quantization.get("quant_method")
            raise UsageError(
                f"{what}: it is quantised already (its config.json says {kind or 'quantization_config'}): "
                "give the full-precision checkpoint that it was made from"
            )


def _ask_hub(name: str, option: str) -> Path:
    """Fetches the configuration, a few hundred bytes, so that a bad id ends the session before anything is built."""
    from huggingface_hub import errors, hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each retry; we say the outcome once
    try:
        return Path(hf_hub_download(name, "config.json"))
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{option} {name}: the model is gated: accept its terms on its hub page and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{option} {name}: there is no such folder here and no such model on the hub: "
            "check the name and, for a private model, HF_TOKEN"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(
            f"{option} {name}: no config.json is cached here or reachable on the hub: check the name and the network"
        ) from error
    except Exception as error:  # whatever the network, the token or the cache can come up with
        raise UsageError(f"{option} {name}: the hub does not give it ({first_line(error)})") from error
