"""The command `python -m udaciheadline.train`: a model from nothing (`checkpoints/train.py`), or a checkpoint that is
trained on, pruned first where that is asked for (`checkpoints/fine_tuning.py`)."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from udaciheadline.checkpoints import train
from udaciheadline.checkpoints.fine_tuning import fine_tune
from udaciheadline.records import UsageError
from udaciheadline.techniques import prune_with
from udaciheadline.techniques.depth_pruning import prune_depth
from udaciheadline.techniques.width_pruning import prune_width

PRUNE = {"depth": prune_depth, "width": prune_width}
DEFAULTS = {
    False: {"steps": 6000, "batch_size": 512, "learning_rate": 2e-3, "max_length": 192},
    True: {"steps": 1000, "batch_size": 32, "learning_rate": 1e-4, "max_length": 512},
}
"""Of a model from nothing, and of one that is trained on."""

FROM_NOTHING = ("size", "layers", "hidden", "intermediate", "tokenizer", "tokenizer_articles")
TRAINED_ON = ("teacher", "prune", "prompt")
INTERRUPTED = 130  # exit status, as of a shell


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m udaciheadline.train",
        description="Trains a small Llama to write headlines, or trains a checkpoint on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What heals a pruned model: --from CHECKPOINT --prune depth --teacher CHECKPOINT --out FOLDER",
    )
    p.add_argument("--out", type=Path, required=True, help="folder that receives the checkpoint")
    p.add_argument("--dataset", default="embedded", help="embedded (default), a path or a hub id, as for pytest bench")
    p.add_argument("--text-column", default="short_description", help="column that the model reads (%(default)s)")
    p.add_argument("--headline-column", default="headline", help="column that it learns to write (%(default)s)")
    p.add_argument("--articles", type=_count, default=1_000_000, help="articles to train on, at most (%(default)s)")
    figures = {
        name: f"(default: {DEFAULTS[False][name]:g}, with --from {DEFAULTS[True][name]:g})" for name in DEFAULTS[True]
    }
    p.add_argument("--steps", type=_count, help=f"optimiser steps {figures['steps']}")
    p.add_argument("--batch-size", type=_count, help=f"articles a step {figures['batch_size']}")
    p.add_argument("--learning-rate", type=float, help=f"peak of the cosine schedule {figures['learning_rate']}")
    p.add_argument("--max-length", type=_count, help=f"longer texts, in tokens, are left out {figures['max_length']}")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one")
    p.add_argument("--seed", type=int, default=0, help="seed of articles, weights and order (%(default)s)")

    on = p.add_argument_group("a checkpoint that is trained on")
    on.add_argument("--from", dest="source", metavar="CHECKPOINT", help="what --model takes of pytest bench")
    on.add_argument("--teacher", metavar="CHECKPOINT", help="learn from what it says of each token (distillation)")
    on.add_argument("--prune", choices=PRUNE, help="first remove a quarter of the weights: layers, or MLP channels")
    on.add_argument("--prompt", default="notebook", help="what --prompt takes of pytest bench (default: notebook)")

    new = p.add_argument_group("a model from nothing")
    new.add_argument("--size", choices=train.SIZES, default="main", help="a shipped size; the next three change it")
    new.add_argument("--layers", type=_count, help="number of layers")
    new.add_argument("--hidden", type=_count, help="width of the hidden state")
    new.add_argument("--intermediate", type=_count, help="width of the MLP")
    new.add_argument("--tokenizer", help="checkpoint whose tokenizer to share, as a draft model must")
    made_from = "articles that a new tokenizer is made from (%(default)s)"
    new.add_argument("--tokenizer-articles", type=_count, default=50_000, help=made_from)
    return p


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with their defaults. Raises UsageError for those that do not go together."""
    command = parser()
    options = command.parse_args(arguments)
    is_on = options.source is not None
    for name in FROM_NOTHING if is_on else TRAINED_ON:
        if getattr(options, name) != command.get_default(name):
            mend = "leave it out: a checkpoint has its own" if is_on else "say which checkpoint with --from"
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: {mend}")
    for name, value in DEFAULTS[is_on].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def pruner(options: argparse.Namespace) -> Any:
    """What prunes as the options ask for, None where they ask for nothing."""
    return partial(prune_with, PRUNE[options.prune]) if options.prune else None


def run(options: argparse.Namespace) -> float:
    """Trains what the options ask for; the held-out loss in nats a headline token. Raises UsageError."""
    return train.train(options) if options.source is None else fine_tune(options, pruner(options))


def main() -> None:
    """Entry point of `python -m udaciheadline.train`."""
    try:
        loss = run(parse())
    except UsageError as error:
        parser().error(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was saved", file=sys.stderr)
        sys.exit(INTERRUPTED)
    print(f"held-out loss {loss:.4f} nats per headline token")


if __name__ == "__main__":
    main()
