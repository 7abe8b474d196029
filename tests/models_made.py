"""Tiny models of other families, with random weights and the embedded tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from udaciheadline.checkpoints import models

VOCABULARY = 4096  # of the embedded tokenizer
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
LAYERS = {"num_layers": 2, "num_heads": 4, "d_model": 64, "d_ff": 128, "d_kv": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SIZES | {"num_key_value_heads": 2}),
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("GPTNeoXForCausalLM", SIZES),
    "opt": ("OPTForCausalLM", SIZES | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "phi": ("PhiForCausalLM", SIZES),
    "gemma": ("GemmaForCausalLM", SIZES | {"num_key_value_heads": 1, "head_dim": 32}),
    "falcon": ("FalconForCausalLM", SIZES),
    "mamba": ("MambaForCausalLM", {"hidden_size": 64, "num_hidden_layers": 2}),
    "t5": ("T5ForConditionalGeneration", LAYERS),
    "bert": ("BertForMaskedLM", SIZES),
}
"""The class of a family's model, and what its configuration is made with."""


def made(family: str, folder: Path, **changes: Any) -> Path:
    """Saves a checkpoint of this family to `folder`; `changes` are to its configuration. The same weights each time."""
    name, options = FAMILIES[family]
    kind = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(kind.config_class(**{"vocab_size": VOCABULARY} | SPECIAL | options | changes))
    return saved(model, folder)


def saved(model: Any, folder: Path) -> Path:
    """Saves a model to `folder`, with the embedded tokenizer."""
    model.save_pretrained(folder)
    for file in Path(models.resolve(models.EMBEDDED, "--model")).glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder
