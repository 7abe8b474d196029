"""Which models the compiled engine runs, and what each family has that Llama has not."""

import copy
import re

import pytest
import torch
from random_models import FAMILIES, SIZES, of_family, random_model, small
from rows import tokens
from transformers import GPT2Config, LlamaForCausalLM, MistralConfig, Qwen2Config

from udaciheadline.engines.compiled import CompiledEngine
from udaciheadline.engines.compiled.families import MAX_LENGTH, check
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.transformers import TransformersEngine
from udaciheadline.records import Unsupported

LENGTH = 8


@pytest.fixture(scope="module", params=FAMILIES)
def engines(request, tokenizer):
    """transformers' engine, and a function that makes ours, on the same random model with the embedded vocabulary."""
    model = of_family(request.param, vocab_size=len(tokenizer))

    def ours(**options):
        return CompiledEngine(copy.deepcopy(model), tokenizer, max_new_tokens=LENGTH, **options)

    return TransformersEngine(copy.deepcopy(model), tokenizer, max_new_tokens=LENGTH), ours


def test_one_by_one_the_tokens_are_those_of_transformers(engines, prompts):
    reference, ours = engines
    expected = tokens(reference.generate(prompts[:12]))
    assert len(set(expected)) == 12
    engine = ours()
    assert [tokens(engine.generate([prompt]))[0] for prompt in prompts[:12]] == expected


def test_as_a_job_they_are_too(engines, prompts):
    reference, ours = engines
    assert tokens(ours(alone=False).generate(prompts[:40], batch_size=16)) == tokens(reference.generate(prompts[:40]))


def test_likelihood_is_that_of_transformers(engines, prompts, news):
    reference, ours = engines
    headlines = [article.headline for article in news]
    theirs = reference.texts.likelihood(prompts[: len(news)], headlines)
    assert ours(alone=False).texts.likelihood(prompts[: len(news)], headlines) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_rotary_embeddings_of_another_type_are_refused_in_one_sentence(kind):
    config = small(rope_parameters={"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0})
    reason = f"its rotary embeddings are of type '{kind}', and the compiled engine knows default and llama3"
    with pytest.raises(Unsupported, match=f"^{reason}$"):
        Llama(LlamaForCausalLM(config), LENGTH)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention_bias": True}, "its attention_bias is True, and the compiled engine runs models with False"),
        ({"mlp_bias": True}, "its mlp_bias is True, and the compiled engine runs models with False"),
        ({"hidden_act": "gelu"}, "its hidden_act is 'gelu', and the compiled engine runs models with 'silu'"),
    ],
)
def test_what_no_llama_of_meta_has_is_refused_in_one_sentence(changes, reason):
    with pytest.raises(Unsupported, match=f"^{reason}$"):
        Llama(LlamaForCausalLM(small(**changes)), LENGTH)


def test_a_model_of_another_family_is_refused_in_one_sentence_that_names_those_it_runs():
    reason = "it is a gpt2 model, and the compiled engine runs Llama, Mistral, Qwen2 and Qwen3"
    with pytest.raises(Unsupported, match=f"^{reason}$"):
        check(GPT2Config())


@pytest.mark.parametrize(
    "config",
    [
        small(MistralConfig, sliding_window=MAX_LENGTH - 1),
        small(Qwen2Config, use_sliding_window=True, sliding_window=MAX_LENGTH - 1, max_window_layers=0),
    ],
    ids=lambda config: config.model_type,
)
def test_a_window_shorter_than_a_text_is_refused_in_one_sentence(config):
    reason = (
        "its tokens read only the last 4095 tokens (sliding_window), "
        "and the compiled engine reads texts of up to 4096 whole"
    )
    with pytest.raises(Unsupported, match=f"^{re.escape(reason)}$"):
        check(config)


@pytest.mark.parametrize(
    "config",
    [
        small(MistralConfig, sliding_window=MAX_LENGTH),
        small(MistralConfig, sliding_window=None),
        small(Qwen2Config, use_sliding_window=False, sliding_window=16),
    ],
)
def test_a_window_that_no_text_fills_or_that_is_not_used_does_not_matter(config):
    check(config)


@torch.no_grad()
def test_a_head_is_its_share_of_the_hidden_size_where_the_configuration_does_not_say():
    config = Qwen2Config(**SIZES)
    assert not hasattr(config, "head_dim")
    reference = random_model(config)
    ours = Llama(copy.deepcopy(reference), 20)
    given = torch.randint(3, 100, (2, 20))
    assert ours.head_dim == 32 // 4
    torch.testing.assert_close(ours(given), reference(given).logits, atol=1e-4, rtol=0)
