"""Several tokens of one text read at once: as one after the other, by PyTorch and by the GPU's kernel."""

from functools import partial

import pytest
import torch
from random_models import of_family

from udaciheadline.engines.compiled.extend import extend
from udaciheadline.engines.compiled.llama import Llama

SLOTS = 160
VOCABULARY = 100


def read(llama, length):
    """The cache of a random text, wild where it is not."""
    torch.manual_seed(length)
    cache = [(k.fill_(7), v.fill_(7)) for k, v in llama.cache(1, SLOTS)]
    llama.prefill(torch.randint(0, VOCABULARY, (1, length)), torch.tensor([length]), cache, torch.tensor([0]))
    return cache


def copied(cache):
    return [(k.clone(), v.clone()) for k, v in cache]


def one_by_one(llama, tokens, length, cache):
    return torch.cat([llama.decode(token[None], torch.tensor([length + i]), cache) for i, token in enumerate(tokens)])


@pytest.mark.parametrize("kernel", [False, True], ids=["PyTorch", "the kernel"])
@pytest.mark.parametrize("length", [1, 65, 150])
@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@torch.no_grad()
def test_tokens_read_together_say_and_leave_in_the_cache_what_they_do_one_by_one(
    monkeypatch, family, count, length, kernel
):
    llama = Llama(of_family(family, hidden_size=48, num_attention_heads=6), SLOTS)
    cache, tokens = read(llama, length), torch.randint(0, VOCABULARY, (count,))
    theirs = copied(cache)
    expected = one_by_one(llama, tokens, length, theirs)
    if kernel:
        monkeypatch.setattr(llama, "_attention_of_more", lambda at, *_: partial(extend, llama.cos, llama.sin, at))
    torch.testing.assert_close(llama.extend(tokens, torch.tensor([length]), cache), expected, atol=1e-4, rtol=1e-4)
    for ours, reference in zip(cache, theirs, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (24, 2)])
@torch.no_grad()
def test_the_kernel_reads_for_as_many_queries_a_key_value_head_as_there_are(monkeypatch, heads, kv_heads):
    source = of_family("llama", hidden_size=48, num_attention_heads=heads, num_key_value_heads=kv_heads)
    llama = Llama(source, SLOTS)
    cache, tokens = read(llama, 70), torch.randint(0, VOCABULARY, (5,))
    expected = one_by_one(llama, tokens, 70, copied(cache))
    monkeypatch.setattr(llama, "_attention_of_more", lambda at, *_: partial(extend, llama.cos, llama.sin, at))
    torch.testing.assert_close(llama.extend(tokens, torch.tensor([70]), cache), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_of_tokens_read_together_only_those_are_judged_that_are_asked_for():
    llama = Llama(of_family("llama"), SLOTS)
    cache, tokens, place = read(llama, 10), torch.randint(0, VOCABULARY, (3,)), torch.tensor([10])
    every = llama.extend(tokens, place, cache)
    torch.testing.assert_close(llama.extend(tokens, place, cache, torch.tensor([2, 0])), every[[2, 0]])
