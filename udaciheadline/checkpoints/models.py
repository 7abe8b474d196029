"""The only place that finds and loads a checkpoint: embedded, a folder, a GGUF file, a hub id, or a shape that embedded
is grown to.

`resolve` runs in the parent and imports no torch; `load_model` and `load_tokenizer` run in the worker processes.
Weights are read from safetensors and GGUF only and remote code stays off, whatever the checkpoint asks for.
"""

import contextlib
from typing import TYPE_CHECKING, Any, cast

from udaciheadline.checkpoints import division, finding, gguf, growth
from udaciheadline.checkpoints.finding import EMBEDDED, SHAPE, embedded, first_line, resolve
from udaciheadline.records import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "BALANCED",
    "EMBEDDED",
    "SHAPE",
    "in_chat_template",
    "load_config",
    "load_model",
    "load_tokenizer",
    "resolve",
]

BALANCED = "balanced"
"""The device map that has accelerate place whole layers on all GPUs."""


def load_tokenizer(checkpoint: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint. Engines pad by themselves: it may have no pad token."""
    from transformers import AutoTokenizer

    source = embedded(checkpoint.rpartition("/")[2]) if checkpoint.startswith(SHAPE) else _folder(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"{checkpoint}: its tokenizer cannot be loaded ({first_line(error)})") from error
    return tokenizer


def in_chat_template(checkpoint: str, text: str) -> str:
    """What a user says, `text`, in the chat template of a checkpoint's tokenizer, up to where the answer begins.

    Raises UsageError where the tokenizer has none.
    """
    tokenizer = load_tokenizer(checkpoint)
    if not tokenizer.chat_template:
        raise UsageError(
            f"--prompt chat: the tokenizer of {checkpoint} has no chat template: use --prompt few-shot:3, or name an "
            "instruction-tuned model"
        )
    message = [{"role": "user", "content": text}]
    made = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    # A template may begin with the token that the tokenizer puts before every text.
    return made.removeprefix(tokenizer.bos_token) if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else made


def load_model(
    checkpoint: str,
    *,
    device: str,
    dtype: str,
    quantization: Any = None,
    ranks: int = 1,
    stage: division.Stage | None = None,
    share: division.Share | None = None,
) -> "PreTrainedModel":
    """The causal language model of a checkpoint on `device`, in the torch dtype named `dtype`.

    `quantization` is a transformers quantisation config, applied while loading; BALANCED is a device too: whole layers
    on all GPUs. With several `ranks`, which have joined a process group, transformers splits every layer; with a
    `stage` or a `share`, the model of just this rank's part is made (`division.py`). Raises Unsupported for a model
    that cannot be divided so, and UsageError where the weights cannot be read or do not fit the configuration: a model
    with missing weights would be measured as if it were whole.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, LlamaForCausalLM

    kind: Any = AutoModelForCausalLM
    source: dict[str, Any] = {"pretrained_model_name_or_path": _folder(checkpoint)}
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
        if part := stage or share:
            source = _of_part(source, source.get("config") or load_config(checkpoint), part)
            kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(source["config"])]
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
            f"{checkpoint}: it cannot be loaded as a causal language model ({first_line(error)})"
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


def _folder(checkpoint: str) -> str:
    """What transformers loads from: a folder or a hub id."""
    return gguf.unpacked(checkpoint) if gguf.is_gguf(checkpoint) else checkpoint


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
        return AutoConfig.from_pretrained(_folder(checkpoint), trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"{checkpoint}: its configuration cannot be loaded ({first_line(error)})") from error


def _weight_files(folder: str, config: Any) -> list[str]:
    """The files that from_pretrained reads the weights of a folder or hub id from, by the same rule: the one that the
    configuration names, else the single one, else those of the index; whatever else lies beside them."""
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    for name in (getattr(config, "transformers_weights", None), *finding.WEIGHTS):
        path = name and cached_file(folder, name, _raise_exceptions_for_missing_entries=False)
        if path:
            return get_checkpoint_shard_files(folder, path)[0] if path.endswith(".index.json") else [path]
    raise UsageError(f"{folder}: it has neither {' nor '.join(finding.WEIGHTS)}: save it with save_pretrained")


def _of_part(source: dict[str, Any], config: Any, part: division.Stage | division.Share) -> dict[str, Any]:
    """What from_pretrained takes for the model of one rank's part alone: what others have is not even read."""
    from safetensors import safe_open
    from transformers import GenerationConfig

    if grown := source.get("state_dict"):
        state = {there: part.cut(name, grown[name]) for name in grown if (there := part.name_here(name))}
        return source | {"config": part.config(config), "state_dict": state}
    folder = source["pretrained_model_name_or_path"]
    made: dict[str, Any] = {"pretrained_model_name_or_path": None, "state_dict": {}}
    for file in _weight_files(folder, config):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - safetensors has no iterator
                if there := part.name_here(name):
                    made["state_dict"][there] = part.cut(name, weights.get_slice(name))
    with contextlib.suppress(OSError):  # a checkpoint may come without
        made["generation_config"] = GenerationConfig.from_pretrained(folder)
    return made | {"config": part.config(config)}


def _grown(checkpoint: str, device: str, dtype: str) -> dict[str, Any]:
    """What from_pretrained takes in the place of a folder for "shape:NAME/ROLE"."""
    import torch
    from safetensors.torch import load_file
    from transformers import GenerationConfig, LlamaConfig

    shape, _, role = checkpoint.removeprefix(SHAPE).partition("/")
    folder = embedded(role)
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
