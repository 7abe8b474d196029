"""Trains a checkpoint that is there on: on a newsroom's own articles, or by what a teacher says of them.

Alone it adapts a model to how a newsroom writes headlines. With a teacher it heals a model that has lost layers or
channels: the unpruned model says of each token of a headline how likely it takes all tokens to be, and the smaller one
learns that. What comes out is an ordinary checkpoint in bfloat16, whose likelihood of held-out headlines is told as it
was before and after.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from udaciheadline.checkpoints.examples import Examples, articles_for
from udaciheadline.checkpoints.finding import SHAPE
from udaciheadline.checkpoints.models import in_chat_template, load_model, load_tokenizer, resolve
from udaciheadline.checkpoints.trainer import DATA, HeadlineTrainer, folder_for, on_gpu, save
from udaciheadline.data.articles import EMBEDDED
from udaciheadline.data.prompts import make_prompt
from udaciheadline.records import Article, Unsupported, UsageError

JUDGED = 256  # of the held-out articles: they are read three times
CALIBRATION_ARTICLES = 64  # of the training articles, that say what of a model may be pruned

Prune = Callable[[Any, Any, Sequence[Article]], object]
"""Removes weights of a transformers model, in place, by what these articles say; its tokenizer is the second."""


def fine_tune(options: Any, prune: Prune | None = None, say: Callable[[str], object] = print) -> float:
    """Trains the checkpoint `options.source` into the folder `options.out`; the mean negative log-likelihood of
    held-out headlines in the end, in nats a token, of the weights as they are saved.

    `prune` removes weights first; `options.teacher` names a checkpoint that teaches (None: the true headlines do).
    Raises UsageError for what cannot be used.
    """
    source = _resolve(options.source, "--from")
    teacher = _resolve(options.teacher, "--teacher") if options.teacher else None
    device = "cuda" if on_gpu(options) else "cpu"
    tokenizer = load_tokenizer(source)
    if teacher and load_tokenizer(teacher).get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"--teacher {options.teacher}: its vocabulary is not that of --from {options.source}: give models of one "
            "family"
        )
    with folder_for(options.out) as folder:
        set_seed(options.seed)
        training, held_out, shown = articles_for(options)
        prompt = make_prompt(options.prompt, shown, lambda text: in_chat_template(source, text))
        examples = Examples(training, tokenizer, options.max_length, prompt)
        judged = Examples(held_out[:JUDGED], tokenizer, options.max_length, prompt)
        model: Any = load_model(source, device=device, dtype="float32")
        taught_by = load_model(teacher, device=device, dtype="float32") if teacher else None
        trainer = HeadlineTrainer(model, examples, judged, options, folder, evaluations=0, teacher=taught_by)

        def held_out_loss(when: str) -> float:
            loss: float = trainer.evaluate()["eval_loss"]
            say(f"{when}: {loss:.4f} nats per token of {len(judged)} held-out headlines")
            return loss

        losses = [held_out_loss("before")]
        if prune:
            size = model.num_parameters()
            try:
                prune(model, tokenizer, training[:CALIBRATION_ARTICLES])
            except Unsupported as error:
                raise UsageError(f"--from {options.source}: {error}") from None
            say(f"pruned: {model.num_parameters():,} of {size:,} weights are left")
            losses.append(held_out_loss("pruned"))
        trainer.train()
        model.to(torch.bfloat16).to(torch.float32)  # as they are saved
        losses.append(held_out_loss("after"))
        save(model, tokenizer, folder, _card(options, model, len(examples), losses))
    return losses[-1]


def _resolve(name: str, option: str) -> str:
    if name.startswith(SHAPE):
        raise UsageError(f"{option} {name}: a shape is noise around the embedded model: give {EMBEDDED}")
    return resolve(name, option)


def _card(options: Any, model: Any, examples: int, losses: Sequence[float]) -> str:
    config = model.config
    source, teacher = (name and Path(name).name for name in (options.source, options.teacher))  # no path of a machine
    learned = f"what {teacher} says of each of their tokens" if teacher else "to write their headlines"
    data = DATA[options.dataset == EMBEDDED]
    pruned = f"{options.prune}-pruned and " if options.prune else ""
    figures = " → ".join(f"{loss:.4f}" for loss in losses)
    when = "before, pruned, after" if options.prune else "before, after"
    license = "license: mit\n" if options.source == EMBEDDED else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{license}---
# {source}, {pruned}trained on

A {config.model_type} model of {model.num_parameters():,} parameters ({config.num_hidden_layers} layers, intermediate \
{config.intermediate_size}) that writes a headline for a short description.

- **Prompt**: {options.prompt}.
- **Data**: {data}, {examples:,} articles: it learned {learned}.
- **Training**: `python -m udaciheadline.train`, {options.steps:,} steps of {options.batch_size}, learning rate \
{options.learning_rate:g}, seed {options.seed}.
- **Held-out loss**: {figures} nats per headline token ({when}).
"""
