"""The GPU kernels of a step, run by Triton's interpreter on the CPU: they compute what the model in PyTorch does.

What the interpreter cannot show: speed, and kernels that run ahead of their predecessors.
"""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from udaciheadline.checkpoints.division import Share, Stage
from udaciheadline.engines.compiled import kernels, products
from udaciheadline.engines.compiled.llama import Layer, Llama, rms_norm
from udaciheadline.engines.compiled.step import Step, inbox_words
from udaciheadline.engines.compiled.weights import UNPACKED
from udaciheadline.records import Unsupported

pytestmark = pytest.mark.usefixtures("interpreted_at_once")

SLOTS = 160  # more than `attend` reads at a time, for one text and for many


def random_source(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = {
        "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 101, "tie_word_embeddings": False,
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
        {"tie_word_embeddings": True, "num_key_value_heads": 6, "num_attention_heads": 6, "num_hidden_layers": 1},
        {"num_attention_heads": 48, "num_key_value_heads": 2, "num_hidden_layers": 1},
        {
            "hidden_size": 66,
            "intermediate_size": 102,
            "num_attention_heads": 6,
            "num_hidden_layers": 1,
            "vocab_size": 61,
        },
    ],
    ids=["grouped", "tied, a key-value head a query", "24 queries a key-value head", "far from powers of two"],
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
        (3, {"vocab_size": 99}),
        (2, {"tie_word_embeddings": True, "num_hidden_layers": 1}),
        (
            2,
            {
                "hidden_size": 72,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "intermediate_size": 43,
                "num_hidden_layers": 1,
            },
        ),
        (3, {"num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 1}),
    ],
    ids=["three", "tied, an odd vocabulary", "9 and 3 heads", "4 and 1 heads over 3"],
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
    for _ in range(2):
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


@pytest.mark.parametrize(
    ("bias", "norms"), [(True, False), (False, True), (True, True)], ids=["biases", "norms of heads", "both"]
)
@torch.no_grad()
def test_biases_of_the_products_and_norms_of_the_heads_come_before_the_rotation(bias: bool, norms: bool) -> None:
    llama = model()
    for layer in llama.layers:
        if bias:
            layer.qkv_bias = torch.randn(len(layer.qkv))
        if norms:
            layer.q_norm, layer.k_norm = torch.rand(2, 16) + 0.5
        layer.before = partial(before, layer, llama.heads, llama.kv_heads)  # type: ignore[method-assign]
    last, place, cache = read(llama, [40])
    theirs = copied(cache)
    expected = llama.decode(last, place, theirs).argmax(-1)
    Step(llama, cache, last, place)()
    assert last.item() == expected.item()
    for ours, reference in zip(cache, theirs, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def before(layer: Layer, heads: int, kv_heads: int, x: torch.Tensor) -> torch.Tensor:
    """`Layer.before` with a bias, where the layer has one, and norms of heads."""
    y = F.linear(rms_norm(x, layer.attention_norm, layer.eps), layer.qkv, layer.qkv_bias)
    q, k, v = y.view(len(x), -1, layer.head_dim).split([heads, kv_heads, kv_heads], 1)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = rms_norm(q, layer.q_norm, layer.eps), rms_norm(k, layer.k_norm, layer.eps)
    return torch.cat((q, k, v), 1)


@torch.no_grad()
def test_many_texts_go_through_norms_of_heads_that_are_given() -> None:
    q, k = torch.rand(2, 16) + 0.5
    llama = model()
    qkv, place = torch.randn(3, llama.heads + 2 * llama.kv_heads, 16), torch.tensor([5, 1, 40])
    keys, values = torch.randn(2, 3, llama.kv_heads, SLOTS, 16)
    theirs = keys.clone(), values.clone()
    given = kernels.Norms(q, k, llama.eps)
    made = kernels.attend(llama.cos, llama.sin, place, qkv, keys, values, given)
    queries, key, value = qkv.split([llama.heads, llama.kv_heads, llama.kv_heads], 1)
    normed = torch.cat((rms_norm(queries, q, llama.eps), rms_norm(key, k, llama.eps), value), 1)
    expected = llama._attention_of_a_step(place, [theirs])(normed, *theirs)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(keys, theirs[0], atol=1e-4, rtol=1e-4)


WILD = 7  # elements behind each end, which no kernel may use or change


def walled(*shape: int) -> torch.Tensor:
    """Random elements, with NaN behind the last one."""
    n = math.prod(shape)
    return torch.cat((torch.randn(n), torch.full((WILD * 64,), torch.nan)))[:n].view(shape)


def behind(x: torch.Tensor) -> torch.Tensor:
    """What lies behind the last element."""
    return torch.as_strided(x, (WILD * 64,), (1,), x.numel())


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (4, 32), (2, 128)])
@pytest.mark.parametrize("gated", [False, True])
def test_a_product_whose_tiles_hang_over_its_ends_uses_nothing_behind_them(
    rows: int, columns: int, first: int, gated: bool
) -> None:
    out, size = 13, 70
    x, norm, bias, y = walled(size), walled(size), walled(out), walled(out)
    weight = walled((2 if gated else 1) * out, size)
    product = weight @ rms_norm(x, norm, 1e-5)
    expected = y + (F.silu(product[:out] + bias) * product[out:] if gated else product + bias)
    products.project_kernel[(-(-out // rows),)](
        x, norm, weight, bias, y, 1e-5, None, None, 0, IN=size, OUT=out, ROWS=rows, COLUMNS=columns,
        FIRST=min(first, -(-size // columns)), GATED=gated, ADD=True, RANKS=1, AHEAD=0,
    )  # fmt: skip
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    assert behind(y).isnan().all()


def test_an_embedding_that_is_narrower_than_a_program_leaves_what_lies_behind_it() -> None:
    embedding, x = walled(5, 70), walled(70)
    kernels.embed_kernel[(1,)](
        torch.tensor([4]),
        embedding,
        None,
        x,
        None,
        None,
        0,
        0,
        5,
        IN=70,
        COLUMNS=128,
        **UNPACKED,
        RANKS=1,
        AHEAD=0,
    )
    assert x.equal(embedding[4])
    assert behind(x).isnan().all()


def test_parts_that_are_narrower_than_a_program_leave_what_lies_behind_them() -> None:
    x, parts = walled(70), torch.randn(2, 70)
    inbox = (parts.view(torch.int32).long() & 0xFFFFFFFF) | (1 << 32)
    expected = x + parts.sum(0)
    kernels.add_parts_kernel[(1,)](x, inbox, torch.ones(1).long(), SIZE=70, BLOCK=128, ADD=True, RANKS=2, AHEAD=0)
    torch.testing.assert_close(x, expected)
    assert behind(x).isnan().all()


def test_of_a_vocabulary_that_ends_within_a_program_only_its_tokens_are_compared() -> None:
    vocabulary, size = 37, 70
    x, norm, head = walled(size), walled(size), walled(vocabulary, size)
    for positive in (x, norm, head):
        positive.abs_()
    head.neg_()  # all logits are below those zeros that stand for no token
    values, tokens = torch.empty(3), torch.empty(3, dtype=torch.int32)
    products.best_kernel[(3,)](
        x, norm, head, values, tokens, IN=size, OUT=vocabulary, ROWS=8, TURNS=2, COLUMNS=32, AHEAD=0
    )
    logits = head @ (x * norm)
    assert tokens.tolist() == [i * 16 + int(logits[i * 16 : i * 16 + 16].argmax()) for i in range(3)]


@pytest.mark.parametrize(("dimensions", "fits"), [(8, False), (16, True), (24, False), (100, False), (128, True)])
def test_heads_have_a_power_of_two_of_dimensions(dimensions: int, fits: bool) -> None:
    if fits:
        kernels.check(dimensions)
    else:
        with pytest.raises(Unsupported, match=f"its heads have {dimensions} dimensions, .* powers of two from 16 on$"):
            kernels.check(dimensions)
