"""Trains a small Llama from nothing to write headlines, on the embedded newswire or on any dataset that `--dataset`
accepts.

`python -m udaciheadline.train --out DIR` made the weights that ship in `embedded/`; a newsroom uses the same command
with its own articles (and `--tokenizer` of its target model) to get a draft model for speculative decoding.

What is learned is the headline alone: the loss is taken over the tokens of the headline and the end of the sequence,
not over the prompt, because a model this small has no capacity to spend on predicting invented names. The loop is that
of `trainer`; the held-out loss is printed as it goes.
"""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed

from udaciheadline.checkpoints.examples import Examples, articles_for
from udaciheadline.checkpoints.models import load_tokenizer
from udaciheadline.checkpoints.trainer import DATA, HeadlineTrainer, folder_for, save
from udaciheadline.data.articles import EMBEDDED
from udaciheadline.data.prompts import completion_for, prompt_for
from udaciheadline.records import Article

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


def train(options: Any) -> float:
    """Trains one model into `options.out` (a checkpoint folder); the held-out loss in nats a headline token.

    Raises UsageError for a dataset, tokenizer, device or folder that cannot be used.
    """
    with folder_for(options.out) as folder:
        set_seed(options.seed)
        training, held_out, _ = articles_for(options)
        if options.tokenizer:
            tokenizer: Any = load_tokenizer(options.tokenizer)
        else:
            tokenizer = train_tokenizer(training[: options.tokenizer_articles])
        changes = {
            "num_hidden_layers": options.layers,
            "hidden_size": options.hidden,
            "intermediate_size": options.intermediate,
        }
        size = SIZES[options.size] | {name: value for name, value in changes.items() if value}
        model = new_model(size, tokenizer)
        examples = Examples(training, tokenizer, options.max_length)
        trainer = HeadlineTrainer(model, examples, Examples(held_out, tokenizer, options.max_length), options, folder)
        trainer.train()
        loss: float = trainer.evaluate()["eval_loss"]
        save(model, tokenizer, folder, _model_card(options, model, len(examples), loss))
    return loss


def _model_card(options: Any, model: LlamaForCausalLM, examples: int, loss: float) -> str:
    config = model.config
    data = DATA[options.dataset == EMBEDDED]
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
