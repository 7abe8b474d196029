"""The GPU kernels of a step, run by Triton's interpreter on the CPU: they compute what the model in PyTorch does.

What the interpreter cannot show: speed, and kernels that run ahead of their predecessors.
"""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from udaciheadline.checkpoints.division import Share, Stage
from udaciheadline.engines.compiled import kernels
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.step import Step, inbox_words
from udaciheadline.records import Unsupported

SLOTS = 160  # more than `attend` reads at a time, for one text and for many


def random_source(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = {
        "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 307, "tie_word_embeddings": False,
    } | changes  # fmt: skip
    source = LlamaForCausalLM(LlamaConfig(**config)).eval()
    with torch.no_grad():
        for name, weight in source.named_parameters():
            weight.copy_(torch.rand_like(weight) + 0.5 if "norm" in name else torch.randn_like(weight) / 4)
    return source


def model(**changes: object) -> Llama:
    return Llama(random_source(**changes), SLOTS)


def read(
    llama: Llama, lengths: list[int]
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The cache of random texts of these lengths, with what is in none of them left wild; last tokens and places."""
    rows = torch.arange(len(lengths))
    cache = [(k.fill_(7), v.fill_(7)) for k, v in llama.cache(len(lengths), SLOTS)]
    tokens = torch.randint(0, len(llama.head), (len(lengths), max(lengths)))
    last = llama.prefill(tokens, torch.tensor(lengths), cache, rows).argmax(-1)
    return last, torch.tensor(lengths), cache


def copied(cache: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(k.clone(), v.clone()) for k, v in cache]


@pytest.mark.parametrize("length", [1, 150])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 6, "num_attention_heads": 6},
        {"num_attention_heads": 48, "num_key_value_heads": 2, "num_hidden_layers": 1},
    ],
    ids=["grouped", "tied, a key-value head a query", "24 queries a key-value head"],
)
@torch.no_grad()
def test_steps_write_the_tokens_and_the_cache_of_the_model(length: int, changes: dict) -> None:
    llama = model(**changes)
    last, place, cache = read(llama, [length])
    expected, theirs, at = [], copied(cache), place.clone()
    token = last
    for _ in range(2):
        token = llama.decode(token, at, theirs).argmax(-1)
        expected.append(token.item())
        at += 1
    step, made = Step(llama, cache, last, place), []
    for _ in range(2):
        step()
        made.append(last.item())
    assert made == expected
    assert place.item() == length + 2
    for ours, reference in zip(cache, theirs, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def split(source: LlamaForCausalLM, ranks: int) -> list[Llama]:
    """The model of each rank, in one process."""
    made = []
    for share in (Share(source.config, rank, ranks) for rank in range(ranks)):
        own = LlamaForCausalLM(share.config(source.config)).eval()
        own.load_state_dict({name: share.cut(name, weight) for name, weight in source.state_dict().items()})
        made.append(Llama(own, SLOTS, share=share))
    return made


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (2, {}),
        (3, {"vocab_size": 306}),
        (2, {"tie_word_embeddings": True}),
        (2, {"hidden_size": 144, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 171}),
        (3, {"num_attention_heads": 4, "num_key_value_heads": 1}),
    ],
    ids=["an odd vocabulary", "three", "tied", "9 and 3 heads", "4 and 1 heads over 3"],
)
@torch.no_grad()
def test_ranks_that_push_into_each_others_inboxes_write_the_tokens_of_the_whole_model(
    ranks: int, changes: dict
) -> None:
    source = random_source(**{"num_key_value_heads": 6} | changes)
    parts = split(source, ranks)
    llama = Llama(source, SLOTS)
    last, place, cache = read(llama, [40])
    own = [list(Share(source.config, rank, ranks).heads[1]) for rank in range(ranks)]
    caches = [[(k[:, heads].clone(), v[:, heads].clone()) for k, v in cache] for heads in own]
    inboxes = [torch.zeros(inbox_words(part), dtype=torch.int64) for part in parts]
    addresses = torch.tensor([inbox.data_ptr() for inbox in inboxes])
    lasts = [last.clone() for _ in parts]
    steps = [
        Step(part, caches[r], lasts[r], place.clone(), SimpleNamespace(
            rank=r, count=ranks, inbox=inboxes[r], inboxes=addresses, step=torch.ones(1, dtype=torch.int64)
        ))
        for r, part in enumerate(parts)
    ]  # fmt: skip
    for _ in range(3):
        last = llama.decode(last, place, cache).argmax(-1)
        place += 1
        for _ in zip(*(step.launches() for step in steps), strict=True):
            pass
        assert [made.item() for made in lasts] == [last.item()] * ranks


@torch.no_grad()
def test_steps_of_two_stages_write_the_tokens_of_the_whole_model() -> None:
    source = random_source(num_hidden_layers=3)
    stages = []
    for layers in (range(2), range(2, 3)):
        part = copy.deepcopy(source)
        part.model.layers = part.model.layers[layers.start : layers.stop]
        part.config.num_hidden_layers = len(layers)
        stages.append(Llama(part, SLOTS, Stage(layers, 3)))
    llama = Llama(source, SLOTS)
    last, place, cache = read(llama, [40])
    caches = copied(cache)[:2], copied(cache)[2:]
    tokens, places = [last.clone(), last.clone()], [place.clone(), place.clone()]
    first, second = (Step(*four) for four in zip(stages, caches, tokens, places, strict=True))
    for _ in range(2):
        last = llama.decode(last, place, cache).argmax(-1)
        place += 1
        first()
        second.x.copy_(first.x)
        second()
        tokens[0].copy_(tokens[1])
        assert tokens[1].item() == last.item()
        assert [at.item() for at in places] == [place.item()] * 2


@torch.no_grad()
def test_a_step_does_not_leave_the_cache() -> None:
    llama = model()
    last, _, cache = read(llama, [3])
    place = torch.tensor([SLOTS - 1])
    Step(llama, cache, last, place)()
    assert place.item() == SLOTS - 1


@torch.no_grad()
def test_many_texts_of_different_lengths_are_read_as_the_model_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = model()
    last, place, cache = read(llama, [40, 1, 150, 33])
    theirs = copied(cache)
    expected = llama.decode(last, place, theirs)
    monkeypatch.setattr(llama, "_attention_of_a_step", lambda at, _: partial(kernels.attend, llama.cos, llama.sin, at))
    torch.testing.assert_close(llama.decode(last, place, cache), expected, atol=1e-4, rtol=1e-4)
    for ours, reference in zip(cache, theirs, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dimensions", "fits"), [(8, False), (16, True), (24, False), (100, False), (128, True)])
def test_heads_have_a_power_of_two_of_dimensions(dimensions: int, fits: bool) -> None:
    if fits:
        kernels.check(dimensions)
    else:
        with pytest.raises(Unsupported, match=f"its heads have {dimensions} dimensions, .* use --engine transformers"):
            kernels.check(dimensions)
