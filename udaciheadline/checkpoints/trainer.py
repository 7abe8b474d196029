"""The loop of whatever is trained, and how it is saved: transformers' `Trainer`, on the CPU or one GPU, seeded.

The loss is taken over the tokens of the headline and its end alone. With a teacher, what is learned there is not the
true token but how likely the teacher takes every token to be (distillation, Hinton et al. 2015,
https://arxiv.org/abs/1503.02531): the Kullback-Leibler divergence from the teacher's distribution to the model's, and
no cross-entropy besides, as heals pruned models best (Minitron, Muralidharan et al. 2024,
https://arxiv.org/abs/2407.14679). A distribution says more than a token, so fewer articles are needed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from udaciheadline.checkpoints.examples import Examples, as_it_is
from udaciheadline.records import UsageError

DATA = {True: "the invented newswire of the udaciheadline package", False: "a dataset of one's own"}
"""What a model card calls the articles: the embedded ones, and others."""


def on_gpu(options: Any) -> bool:
    """Whether `--device` asks for the GPU. Raises UsageError where there is none."""
    use_cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    if use_cuda and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA GPU here: use --device cpu")
    return use_cuda


@contextlib.contextmanager
def folder_for(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` in the end, and is gone where the end does not come: what is there is whole. Raises
    UsageError where something is there already, or nothing can be written there."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: it is a file: give a folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out}: there is something in it already: name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as begun:
            made = Path(begun) / out.name
            made.mkdir()
            yield made
            made.replace(out)
    except OSError as error:
        raise UsageError(f"--out {out}: it cannot be written ({error.strerror}): name another folder") from error


class HeadlineTrainer(Trainer):
    """Trains a causal language model on headlines, by what a `teacher` of the same vocabulary says of them, if any.

    `evaluate` gives the mean negative log-likelihood of the true headlines, in nats a token, either way.
    """

    def __init__(
        self,
        model: Any,
        training: Examples,
        held_out: Examples,
        options: Any,
        folder: Path,
        *,
        evaluations: int = 10,
        teacher: Any = None,
    ) -> None:
        use_cuda = on_gpu(options)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=min(500, options.steps // 10),
            weight_decay=0.1,
            adam_beta2=0.95,
            bf16=use_cuda and torch.cuda.is_bf16_supported(),
            use_cpu=not use_cuda,
            seed=options.seed,
            eval_strategy="steps" if evaluations else "no",
            eval_steps=max(1, options.steps // max(evaluations, 1)),
            logging_steps=max(1, options.steps // 20),
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_num_workers=2 if use_cuda else 0,
        )
        super().__init__(model, arguments, as_it_is, train_dataset=training, eval_dataset=held_out)
        self._teacher = teacher.to(self.args.device) if teacher else None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the batch's headline tokens (n), in nats."""
        labels = inputs["labels"][:, 1:]
        learned = labels != -100
        predicted = _predictions(model, inputs, learned)
        if self._teacher is None or not model.training:
            loss = F.cross_entropy(predicted, labels[learned])
        else:
            with torch.no_grad():
                taught = _predictions(self._teacher, inputs, learned)
            size = min(predicted.shape[1], taught.shape[1])  # vocabularies may be padded differently
            log_p, log_q = (logits[:, :size].log_softmax(-1) for logits in (taught, predicted))
            loss = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return (loss, {"logits": predicted}) if return_outputs else loss


def _predictions(model: Any, inputs: dict[str, Tensor], learned: Tensor) -> Tensor:
    """Logits (n, vocabulary) where the next token is to be `learned` (rows, length - 1): the head, which is half of a
    small model, reads no other hidden state."""
    positions = F.pad(learned, (0, 1))
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][positions],))
    try:
        texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return model(**texts, use_cache=False).logits.float()
    finally:
        hook.remove()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """Saves a model in bfloat16, for greedy decoding with a cache, with its tokenizer and its card."""
    given = model.generation_config
    ends = {
        name: value
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if (value := getattr(given, name, None)) is not None or (value := getattr(tokenizer, name, None)) is not None
    }
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    model.config.use_cache = True  # the Trainer turns it off
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, "utf-8")
