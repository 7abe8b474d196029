"""The only place that finds and loads a checkpoint: embedded, a folder, a hub id, or a shape that embedded is grown to.

`resolve` runs in the parent and imports no torch; `load_model` and `load_tokenizer` run in the worker processes.
Weights are read from safetensors only and remote code stays off, whatever the checkpoint asks for.
"""

import contextlib
import json
import logging
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from udaciheadline.checkpoints import division, growth
from udaciheadline.records import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
SHAPE = "shape:"
BALANCED = "balanced"
"""The device map that has accelerate place whole layers on all GPUs."""


def resolve(name: str, option: str, role: str = "main") -> str:
    """The folder or hub id that `name` means; `role` says which embedded model ("main" or "target").

    A shape keeps its name and gets the role, "shape:llama-3.2-1b/main". `option` is the command-line option it came
    from. Raises UsageError where there is no such checkpoint, or the hub does not give it (gated, missing,
    unreachable).
    """
    if name == EMBEDDED:
        return _embedded(role)
    if name.startswith(SHAPE):
        if name.removeprefix(SHAPE) not in growth.SHAPES:
            known = ", ".join(SHAPE + shape for shape in growth.SHAPES)
            raise UsageError(f"{option} {name}: there is no such shape: choose from {known}")
        return f"{name}/{role}"
    path = Path(name)
    if path.exists():
        return str(_checked_folder(path, option))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(f"{option} {name}: there is no such folder: give {EMBEDDED}, a checkpoint folder or a hub id")
    _ask_hub(name, option)
    return name


def _embedded(role: str) -> str:
    return str(files("udaciheadline.checkpoints") / "embedded" / role)


def _checked_folder(path: Path, option: str) -> Path:
    config = path / "config.json"
    if not config.is_file():
        raise UsageError(f"{option} {path}: it has no config.json: give a checkpoint folder in the Hugging Face layout")
    try:
        json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{option} {path}: its config.json is not valid JSON ({error}): save the checkpoint again"
        ) from error
    if not any(path.glob("*.safetensors")):
        raise UsageError(f"{option} {path}: it has no .safetensors weights: save it with save_pretrained")
    return path


def _ask_hub(name: str, option: str) -> None:
    """Fetches the configuration, a few hundred bytes, so that a bad id ends the session before anything is built."""
    from huggingface_hub import errors, hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each retry; we say the outcome once
    try:
        hf_hub_download(name, "config.json")
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
        raise UsageError(f"{option} {name}: the hub does not give it ({_first_line(error)})") from error


def load_tokenizer(checkpoint: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint. Engines pad by themselves: it may have no pad token."""
    from transformers import AutoTokenizer

    source = _embedded(checkpoint.rpartition("/")[2]) if checkpoint.startswith(SHAPE) else checkpoint
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"{checkpoint}: its tokenizer cannot be loaded ({_first_line(error)})") from error
    return tokenizer


def load_model(
    checkpoint: str,
    *,
    device: str,
    dtype: str,
    quantization: Any = None,
    ranks: int = 1,
    stage: division.Stage | None = None,
) -> "PreTrainedModel":
    """The causal language model of a checkpoint on `device`, in the torch dtype named `dtype`.

    `quantization` is a transformers quantisation config, applied while loading; BALANCED is a device too: whole layers
    on all GPUs. With several `ranks`, which have joined a process group, each gets its part of every layer
    (`division.py`); with a `stage`, a model of just its layers is made. Raises Unsupported for a model that cannot be
    divided so, and UsageError where the weights cannot be read or do not fit the configuration: a model with missing
    weights would be measured as if it were whole.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    kind: Any = AutoModelForCausalLM
    source: dict[str, Any] = {"pretrained_model_name_or_path": checkpoint}
    if checkpoint.startswith(SHAPE):
        kind, source = LlamaForCausalLM, _grown(checkpoint, _by_number(device), dtype)
    else:
        _check_causal(checkpoint, load_config(checkpoint))
    placement: dict[str, Any] = {"device_map": device}
    if ranks > 1:
        from transformers.distributed import DistributedConfig  # type: ignore[attr-defined]

        config = source.get("config") or load_config(checkpoint)
        source["config"] = division.prepare(config, ranks)
        placement = {"distributed_config": DistributedConfig(tp_size=ranks, tp_plan="auto")}
    try:
        if stage is not None:
            kind, source = LlamaForCausalLM, _of_stage(checkpoint, source, stage)
        loaded = kind.from_pretrained(
            **source,
            **placement,
            dtype=getattr(torch, dtype),
            quantization_config=quantization,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (torch.OutOfMemoryError, MemoryError, UsageError):
        raise
    except Exception as error:  # safetensors, the hub client and transformers each raise their own
        raise UsageError(
            f"{checkpoint}: it cannot be loaded as a causal language model ({_first_line(error)})"
        ) from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(f"{checkpoint}: {len(missing)} weights are missing, {missing[0]} among them: save it again")
    # Older checkpoints carry the rotary frequencies, which a model makes by itself.
    if extra := sorted(name for name in loading["unexpected_keys"] if not name.endswith("rotary_emb.inv_freq")):
        raise UsageError(
            f"{checkpoint}: {len(extra)} weights have no place in it, {extra[0]} among them: mend its config.json"
        )
    if ranks > 1:
        division.keep_own_heads(model, torch.distributed.get_rank(), ranks)
    return cast("PreTrainedModel", model.eval())


def _check_causal(checkpoint: str, config: Any) -> None:
    """Raises UsageError for a model that does not write a text from left to right, though it may be loaded as one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = None
    if config.is_encoder_decoder:
        kind = "an encoder-decoder"
    elif getattr(config, "is_decoder", None) is False and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        kind = "an encoder"
    if kind:
        raise UsageError(
            f"{checkpoint}: it is {kind} ({config.model_type}), and headlines are written by causal language models: "
            "give one of those, such as a Llama or a GPT-2"
        )


def _by_number(device: str) -> str:
    """The device on which weights are made: "cuda" means another one in the threads that transformers loads with."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if device in ("cuda", BALANCED) else device


def load_config(checkpoint: str) -> Any:
    """The configuration of a checkpoint, as transformers reads it. Raises UsageError where it cannot be read."""
    from transformers import AutoConfig

    if checkpoint.startswith(SHAPE):
        return _grown(checkpoint, "cpu", "float32")["config"]
    try:
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"{checkpoint}: its configuration cannot be loaded ({_first_line(error)})") from error


def _of_stage(checkpoint: str, source: dict[str, Any], stage: division.Stage) -> dict[str, Any]:
    """What from_pretrained takes for a Llama of the stage's layers alone: the others' weights are not even read."""
    from huggingface_hub import snapshot_download
    from safetensors import safe_open
    from transformers import GenerationConfig

    def name_there(name: str) -> str | None:
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None:
            return name
        number = int(layer[1])
        return f"model.layers.{number - stage.layers.start}.{name[layer.end() :]}" if number in stage.layers else None

    if "state_dict" not in source:
        folder = checkpoint
        if not Path(folder).is_dir():
            folder = snapshot_download(checkpoint, allow_patterns="*.safetensors")
        source = {"pretrained_model_name_or_path": None, "config": load_config(checkpoint), "state_dict": {}}
        with contextlib.suppress(OSError):  # a checkpoint may come without
            source["generation_config"] = GenerationConfig.from_pretrained(checkpoint)
        for file in sorted(Path(folder).glob("model*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                own = filter(name_there, weights.keys())
                source["state_dict"] |= {name: weights.get_tensor(name) for name in own}
    source["config"].num_hidden_layers = len(stage.layers)
    state = source["state_dict"]
    return source | {"state_dict": {there: state[name] for name in state if (there := name_there(name))}}


def _grown(checkpoint: str, device: str, dtype: str) -> dict[str, Any]:
    """What from_pretrained takes in the place of a folder for "shape:NAME/ROLE"."""
    import torch
    from safetensors.torch import load_file
    from transformers import GenerationConfig, LlamaConfig

    shape, _, role = checkpoint.removeprefix(SHAPE).partition("/")
    folder = _embedded(role)
    config, state = growth.grow(
        LlamaConfig.from_pretrained(folder),
        load_file(f"{folder}/model.safetensors"),
        growth.SHAPES[shape],
        device=device,
        dtype=getattr(torch, dtype),
    )
    return {
        "pretrained_model_name_or_path": None,
        "config": config,
        "state_dict": state,
        "generation_config": GenerationConfig.from_pretrained(folder),
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
