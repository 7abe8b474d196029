"""Trains a small Llama to write headlines, on the embedded newswire or on any dataset that `--dataset` accepts.

`python -m udaciheadline.train --out DIR` made the weights that ship in `embedded/`; a newsroom uses the same command
with its own articles (and `--tokenizer` of its target model) to get a draft model for speculative decoding.

What is learned is the headline alone: the loss is taken over the tokens of the headline and the end of the sequence,
not over the prompt, because a model this small has no capacity to spend on predicting invented names. The loop is
transformers' `Trainer`, on the CPU or one GPU, seeded; the held-out loss is printed as it goes.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from udaciheadline.checkpoints.models import load_tokenizer
from udaciheadline.data.articles import load_articles
from udaciheadline.data.newswire import evaluation_articles, training_articles
from udaciheadline.data.prompts import completion_for, prompt_for
from udaciheadline.records import Article, UsageError

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"

# Llama-3.2-1B's rotary embedding, so that the small models can be grown to its shape.
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# head_dim 64 and 4 query heads per KV head, as in Llama-3.2-1B; both sizes together take 18.5 MiB of bf16.
SIZES: dict[str, dict[str, int]] = {
    "main": {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 384},
    "target": {"num_hidden_layers": 8, "hidden_size": 256, "intermediate_size": 960},
}
HELD_OUT_COUNT = 1000


def train_tokenizer(articles: Sequence[Article], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE over prompts and headlines; digits stay single, so that figures can be copied."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (prompt_for(a.short_description) + completion_for(a.headline) for a in articles)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_input_names=["input_ids", "attention_mask"],
    )


class _Examples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Tokenised articles as two arrays (articles, length): token ids, and labels that are -100 outside the headline.

    A whole batch is gathered at once (`__getitems__`), which keeps the data loader out of the way of a fast GPU.
    """

    def __init__(self, articles: Sequence[Article], tokenizer: PreTrainedTokenizerBase, max_length: int):
        prompts = tokenizer([prompt_for(a.short_description) for a in articles])["input_ids"]
        headlines = tokenizer([completion_for(a.headline) for a in articles], add_special_tokens=False)["input_ids"]
        rows = [(p, [*h, tokenizer.eos_token_id]) for p, h in zip(prompts, headlines, strict=True)]
        rows = [(p, h) for p, h in rows if len(p) + len(h) <= max_length]
        if not rows:
            raise UsageError(f"no article fits in {max_length} tokens: give a larger --max-length")
        self.dropped = len(articles) - len(rows)
        self._lengths = np.array([len(p) + len(h) for p, h in rows])
        self._ids = np.zeros((len(rows), self._lengths.max()), dtype=np.int32)
        self._starts = np.array([len(p) for p, _ in rows])
        for i, (p, h) in enumerate(rows):
            self._ids[i, : self._lengths[i]] = p + h

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        lengths = self._lengths[indices][:, None]
        longest = int(lengths.max())
        ids = torch.from_numpy(self._ids[indices, :longest]).long()
        position = np.arange(longest)[None, :]
        is_text = torch.from_numpy(position < lengths)
        is_headline = torch.from_numpy((position >= self._starts[indices][:, None]) & (position < lengths))
        return {"input_ids": ids, "attention_mask": is_text.long(), "labels": ids.masked_fill(~is_headline, -100)}


def _as_it_is(batch: Any) -> dict[str, torch.Tensor]:
    """A batch is whole as `__getitems__` gives it: there is nothing to collate."""
    return cast(dict[str, torch.Tensor], batch)


def new_model(size: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An untrained Llama with tied embeddings, head_dim 64 and four query heads for one KV head."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        rope_parameters=ROPE,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **size,
    )
    return LlamaForCausalLM(config)


def _articles(options: argparse.Namespace) -> tuple[Sequence[Article], Sequence[Article]]:
    """(training, held-out) articles. The embedded newswire holds its evaluation articles out; of other data, the
    last tenth, at most 1,000 articles."""
    if options.dataset == "embedded":
        return list(training_articles(options.articles, options.seed)), evaluation_articles()
    articles = load_articles(
        options.dataset, options.articles, text_column=options.text_column, headline_column=options.headline_column
    ).articles
    held_out = min(HELD_OUT_COUNT, math.ceil(len(articles) / 10))
    if held_out == len(articles):
        raise UsageError(f"{options.dataset}: one article is not enough to train on: give at least two")
    return articles[:-held_out], articles[-held_out:]


def train(options: argparse.Namespace) -> dict[str, float]:
    """Trains one model into `options.out` (a checkpoint folder) and returns the last held-out figures.

    Raises UsageError for a dataset, tokenizer, device or folder that cannot be used.
    """
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out}: it is a file: give a folder")
    use_cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    if use_cuda and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA GPU here: use --device cpu")
    set_seed(options.seed)
    training, held_out = _articles(options)
    if options.tokenizer:
        tokenizer: Any = load_tokenizer(options.tokenizer)
    else:
        tokenizer = train_tokenizer(training[: options.tokenizer_articles])
    size = SIZES[options.size] | {
        name: value
        for name, value in {
            "num_hidden_layers": options.layers,
            "hidden_size": options.hidden,
            "intermediate_size": options.intermediate,
        }.items()
        if value
    }
    model = new_model(size, tokenizer)
    examples = _Examples(training, tokenizer, options.max_length)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.out),
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
            eval_strategy="steps",
            eval_steps=max(1, options.steps // 10),
            logging_steps=max(1, options.steps // 20),
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_num_workers=2 if use_cuda else 0,
        ),
        train_dataset=examples,
        eval_dataset=_Examples(held_out, tokenizer, options.max_length),
        data_collator=_as_it_is,
    )
    trainer.train()
    figures: dict[str, float] = trainer.evaluate()
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.config.use_cache = True  # the Trainer turns it off
    model.bfloat16().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "README.md").write_text(_model_card(options, model, len(examples), figures["eval_loss"]), "utf-8")
    return figures


def _model_card(options: argparse.Namespace, model: LlamaForCausalLM, examples: int, loss: float) -> str:
    config = model.config
    data = (
        "the invented newswire of the udaciheadline package"
        if options.dataset == "embedded"
        else "a dataset of one's own"
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
license: mit
language: en
---
# udaciheadline {options.size}

A Llama of {sum(p.numel() for p in model.parameters()):,} parameters ({config.num_hidden_layers} layers, hidden \
{config.hidden_size}, intermediate {config.intermediate_size}, {config.num_attention_heads} query heads over \
{config.num_key_value_heads} KV head, vocabulary {config.vocab_size}) that writes a headline for a short description.

- **What it is**: a stand-in for a real language model in an inference benchmark. It is really trained, so that a fault
  in an optimisation shows in its headlines.
- **What it is not**: a model to publish headlines with. It has read nothing but the articles below, knows no fact, and
  says nothing sensible about other text.
- **Prompt**: `Short description: {{text}}\\nHeadline:`, greedy decoding, at most 25 new tokens.
- **Data**: {data}, {examples:,} articles, {options.steps:,} steps of {options.batch_size}, seed {options.seed}.
- **Held-out loss**: {loss:.4f} nats per headline token (weights in float32, before they were rounded to bfloat16).
"""


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m udaciheadline.train",
        description="Trains a small Llama to write headlines.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=Path, required=True, help="folder that receives the checkpoint")
    p.add_argument("--size", choices=SIZES, default="main", help="a shipped size; the three below change it")
    p.add_argument("--layers", type=_count, help="number of layers")
    p.add_argument("--hidden", type=_count, help="width of the hidden state")
    p.add_argument("--intermediate", type=_count, help="width of the MLP")
    p.add_argument("--dataset", default="embedded", help="embedded, a path or a hub id, as for pytest bench")
    p.add_argument("--text-column", default="short_description", help="column that the model reads")
    p.add_argument("--headline-column", default="headline", help="column that it learns to write")
    p.add_argument("--articles", type=_count, default=1_000_000, help="articles to train on, at most")
    p.add_argument("--tokenizer", help="checkpoint whose tokenizer to share, as a draft model must")
    p.add_argument(
        "--tokenizer-articles", type=_count, default=50_000, help="articles that a new tokenizer is made from"
    )
    p.add_argument("--steps", type=_count, default=6000, help="optimiser steps")
    p.add_argument("--batch-size", type=_count, default=512, help="articles a step")
    p.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate of the cosine schedule")
    p.add_argument("--max-length", type=_count, default=192, help="longer articles, in tokens, are left out")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one")
    p.add_argument("--seed", type=int, default=0, help="seed of articles, weights and order")
    return p


def main() -> None:
    """Entry point of `python -m udaciheadline.train`."""
    command = parser()
    try:
        figures = train(command.parse_args())
    except UsageError as error:
        command.error(str(error))
    print(f"held-out loss {figures['eval_loss']:.4f} nats per headline token")


if __name__ == "__main__":
    main()
