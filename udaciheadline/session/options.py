"""The options that say which model writes from which prompt on which device, for the suite and for a job alike: their
names, defaults and meaning."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from udaciheadline.checkpoints import growth, models
from udaciheadline.data import prompts
from udaciheadline.engines import ENGINES
from udaciheadline.records import Article, EngineSpec, UsageError
from udaciheadline.techniques import PRUNED
from udaciheadline.workers import worker

if TYPE_CHECKING:
    from udaciheadline.workers.hosts import Host
    from udaciheadline.workers.processes import Here

    Hosts = Sequence[Here | Host]

COUNTS = ("articles", "max_new_tokens", "batch_size", "ranks", "launches", "quality_articles")


def batch_size(text: str) -> int | None:
    """The value of `--batch-size`; None stands for auto."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto: give one of them") from None


def add_shared(add: Callable[..., object]) -> None:
    """Declares them with `add`, which takes what argparse's `add_argument` takes."""
    shapes = "shape:NAME (embedded, grown to a true Llama's size: " + ", ".join(growth.SHAPES) + ")"
    add("--text-column", default="short_description", help="column that the model reads")
    add("--headline-column", default="headline", help="column with the true headline")
    kinds = f"embedded, {shapes}, smollm2-135m, a checkpoint folder, a GGUF file or a hub id"
    add("--model", default=models.EMBEDDED, help=kinds)
    add("--target", help="larger model of the target and speculative rows (default: embedded with an embedded --model)")
    add("--draft", help="draft model of the speculative row (default: --model)")
    pruned = (
        "checkpoint that stands ready for a row that would prune --model, such as depth-pruned=FOLDER; once for each"
    )
    add("--pruned-model", action="append", default=[], metavar="NAME=CHECKPOINT", help=pruned)
    add("--prompt", default="notebook", help="notebook (default), chat, few-shot:K, or a text file with {text} in it")
    add("--stop", choices=prompts.STOPS, default="newline", help="where a headline ends besides (default: newline)")
    add("--max-new-tokens", type=int, default=25, help="longest headline, in tokens (default: 25)")
    add("--batch-size", type=batch_size, metavar="N", help="articles at a time in a job (default: auto, the fastest)")
    add("--engine", choices=ENGINES, default=ENGINES[0], help="of techniques that exist on several (%(default)s)")
    ranks = "processes of a parallel technique (default: all GPUs, up to 4; 2 on CPU; at least one a host)"
    add("--ranks", type=int, metavar="N", help=ranks)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, default="auto", help="of every row; auto: bfloat16 where the GPU has it")


def check_counts(option: Any) -> None:
    """Raises UsageError for a number below 1, of the options that there are."""
    for name in COUNTS:
        if (value := getattr(option, name, None)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: give at least 1")


def pruned_models(option: Any) -> dict[str, str]:
    """The checkpoints that `--pruned-model` names, as an `EngineSpec` has them: of the embedded model, those that ship
    besides. Raises UsageError."""
    found = {}
    if option.model == models.EMBEDDED:
        found = {name: models.resolve(models.EMBEDDED, "--model", name) for name in PRUNED}
    for named in option.pruned_model:
        name, _, checkpoint = named.partition("=")
        if name not in PRUNED or not checkpoint:
            raise UsageError(f"--pruned-model {named}: give {' or '.join(f'{row}=CHECKPOINT' for row in PRUNED)}")
        found[name] = models.resolve(checkpoint, f"--pruned-model {name}")
    return found


def named_models(option: Any) -> tuple[str, str | None, str]:
    """The checkpoints that `--model`, `--target` and `--draft` name, as an `EngineSpec` has them. Raises UsageError."""
    target = option.target or (models.EMBEDDED if option.model == models.EMBEDDED else None)
    model = models.resolve(option.model, "--model")
    target = target and models.resolve(target, "--target", "target")
    return model, target, models.resolve(option.draft, "--draft") if option.draft else model


def engine_spec(
    option: Any, gather: "Callable[[], Hosts] | None" = None, calibration: tuple[Article, ...] = ()
) -> "tuple[EngineSpec, Hosts]":
    """What all engines are built from, and the machines that they run on, which `gather` finds (None: this one).
    Raises UsageError."""
    model, target, draft = named_models(option)
    device, dtype = worker.choose_device(option.device, option.dtype)
    hosts = gather() if gather else worker.HERE
    spec = EngineSpec(
        model,
        target,
        draft,
        device,
        dtype,
        option.max_new_tokens,
        option.engine,
        worker.choose_ranks(option.ranks, device, hosts),
        option.stop,
        pruned_models(option),
        calibration,
    )
    return spec, hosts
