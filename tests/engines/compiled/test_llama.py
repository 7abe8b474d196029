"""Our own Llama against transformers', in float32 on the CPU."""

import copy
from types import SimpleNamespace

import pytest
import torch
from random_models import FAMILIES, of_family, random_model, small
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from udaciheadline.checkpoints import growth, models
from udaciheadline.engines.compiled.attention import rotary_frequencies
from udaciheadline.engines.compiled.llama import Llama

LENGTH, SLOTS = 96, 64
LENGTHS = (17, 40, 1, 29)  # of prompts that are read together
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def shrunk(name):
    """A shape with fewer of everything, but with its own head_dim, queries to a key-value head, and kind of head."""
    shape = growth.SHAPES[name]
    return small(
        hidden_size=192,
        num_attention_heads=2 * shape.heads // shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=240,
        vocab_size=500,
        tie_word_embeddings=shape.tied,
        rope_parameters=LLAMA3,
        initializer_range=0.1,
    )


def embedded(role):
    return models.load_model(models.resolve(models.EMBEDDED, "--model", role), device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=["main", "target", *growth.SHAPES, *FAMILIES])
def pair(request):
    """transformers' model as the `reference`, and `ours` with the same weights."""
    if request.param in FAMILIES:
        reference = of_family(request.param)
    else:
        shape = request.param in growth.SHAPES
        reference = random_model(shrunk(request.param)) if shape else embedded(request.param)
    return SimpleNamespace(reference=reference, ours=Llama(copy.deepcopy(reference), LENGTH))


@pytest.fixture(scope="module")
def llama():
    return Llama(random_model(shrunk("llama-3.2-1b")), LENGTH)


def random_tokens(model, *size):
    return torch.randint(3, len(model.embedding), size, generator=torch.Generator().manual_seed(1))


def batch_of(prompts, padding=0):
    """Tokens (b, t) and lengths (b) of prompts of different lengths, as `prefill` takes them."""
    return pad_sequence(prompts, batch_first=True, padding_value=padding), torch.tensor([len(p) for p in prompts])


def prompts_for(model):
    return [random_tokens(model, length) for length in LENGTHS]


@torch.no_grad()
def last_logits(reference, text):
    return reference(text[None]).logits[0, -1]


def copied(cache):
    return [tuple(tensor.clone() for tensor in layer) for layer in cache]


def same(cache, other, rows):
    """Whether two caches hold exactly the same in these rows."""
    pairs = [(a[rows], b[rows]) for own, its in zip(cache, other, strict=True) for a, b in zip(own, its, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


# -- the same numbers ------------------------------------------------------------------------------------------------


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_logits_of_whole_texts_are_those_of_transformers(pair):
    tokens = random_tokens(pair.ours, 3, 50)
    expected = pair.reference(tokens).logits
    assert expected.std() > 0.5
    close(pair.ours(tokens), expected)


@torch.no_grad()
def test_prompts_of_different_lengths_read_together_have_the_logits_that_each_has_alone(pair):
    prompts = prompts_for(pair.ours)
    found = pair.ours.prefill(*batch_of(prompts), pair.ours.cache(4, SLOTS), torch.arange(4))
    close(found, torch.stack([last_logits(pair.reference, prompt) for prompt in prompts]))


@pytest.mark.parametrize("count", [1, 4])
@torch.no_grad()
def test_step_by_step_the_logits_are_those_of_the_whole_text(pair, count):
    prompts, further = prompts_for(pair.ours)[:count], random_tokens(pair.ours, 4, count)
    cache = pair.ours.cache(count, SLOTS)
    pair.ours.prefill(*batch_of(prompts), cache, torch.arange(count))
    texts = prompts
    for tokens in further:
        slots = torch.tensor([len(text) for text in texts])
        texts = [torch.cat((text, token[None])) for text, token in zip(texts, tokens, strict=True)]
        found = pair.ours.decode(tokens, slots, cache)
        close(found, torch.stack([last_logits(pair.reference, text) for text in texts]))


@pytest.mark.parametrize("name", ["main", *FAMILIES])
@torch.no_grad()
def test_bfloat16_costs_no_more_precision_than_it_does_in_transformers(name):
    reference = of_family(name) if name in FAMILIES else embedded(name)
    theirs = AutoModelForCausalLM.from_config(reference.config, dtype=torch.bfloat16).eval()
    theirs.load_state_dict(reference.state_dict())
    tokens = random_tokens(Llama(copy.deepcopy(reference), LENGTH), 8, 50)
    exact = reference(tokens).logits
    error = (theirs(tokens).logits.float() - exact).square().mean().sqrt()
    found = Llama(theirs, LENGTH)(tokens)
    assert found.dtype == torch.bfloat16
    assert 0 < (found.float() - exact).square().mean().sqrt() < 1.1 * error


# -- rows do not meet ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_pads_a_shorter_prompt_changes_nothing(llama):
    prompts, found = prompts_for(llama), []
    for padding in (0, 7):
        cache = llama.cache(4, SLOTS)
        first = llama.prefill(*batch_of(prompts, padding), cache, torch.arange(4))
        steps = [llama.decode(torch.tensor([5, 6, 7, 8]), torch.tensor(LENGTHS) + step, cache) for step in range(3)]
        found.append(torch.stack([first, *steps]))
    assert torch.equal(*found)


@torch.no_grad()
def test_what_another_row_holds_changes_nothing(llama):
    cache = llama.cache(4, SLOTS)
    llama.prefill(*batch_of(prompts_for(llama)), cache, torch.arange(4))
    other = copied(cache)
    for tensor in (tensor for layer in other for tensor in layer):
        tensor[1] = torch.randn_like(tensor[1])
    tokens, slots = torch.tensor([5, 6, 7, 8]), torch.tensor(LENGTHS)
    before, after = llama.decode(tokens, slots, cache), llama.decode(tokens, slots, other)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.equal(before[1], after[1])


@torch.no_grad()
def test_a_new_text_in_a_row_sees_nothing_of_the_longer_one_before_it(llama):
    long, short, token = random_tokens(llama, 40), random_tokens(llama, 9), torch.tensor([5])
    found = []
    for earlier in ([], [long]):
        cache = llama.cache(1, SLOTS)
        for prompt in (*earlier, short):
            first = llama.prefill(*batch_of([prompt]), cache, torch.tensor([0]))
        found.append(torch.stack((first, llama.decode(token, torch.tensor([9]), cache))))
    assert torch.equal(*found)


@torch.no_grad()
def test_a_step_of_the_first_rows_writes_one_slot_of_each_and_leaves_the_others_alone(llama):
    cache = llama.cache(4, SLOTS)
    llama.prefill(*batch_of(prompts_for(llama)), cache, torch.arange(4))
    before = copied(cache)
    llama.decode(torch.tensor([5, 6]), torch.tensor(LENGTHS[:2]), cache)
    assert same(cache, before, slice(2, 4))
    for new, old in ((a, b) for own, its in zip(cache, before, strict=True) for a, b in zip(own, its, strict=True)):
        changed = (new != old).any(-1).all(1).nonzero().tolist()  # row and slot, of all heads
        assert changed == [[0, LENGTHS[0]], [1, LENGTHS[1]]]


@torch.no_grad()
def test_prompts_are_written_to_the_rows_that_were_chosen_and_to_no_other(llama):
    cache = llama.cache(5, SLOTS)
    llama.prefill(*batch_of([random_tokens(llama, 50)] * 5), cache, torch.arange(5))
    before, prompts = copied(cache), prompts_for(llama)[:2]
    llama.prefill(*batch_of(prompts), cache, torch.tensor([3, 1]))
    assert same(cache, before, [0, 2, 4])
    expected = llama.cache(2, SLOTS)
    llama.prefill(*batch_of(prompts), expected, torch.arange(2))
    for new, alone in zip(cache, expected, strict=True):
        for length, row, own in zip(LENGTHS, (3, 1), (0, 1), strict=False):
            assert all(torch.equal(a[row, :, :length], b[own, :, :length]) for a, b in zip(new, alone, strict=True))


# -- rotary embeddings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("parameters", [{"rope_type": "default", "rope_theta": 10000.0}, LLAMA3])
def test_rotary_frequencies_are_those_of_transformers(head_dim, parameters):
    config = small(head_dim=head_dim, rope_parameters=parameters)
    expected = LlamaRotaryEmbedding(config).inv_freq
    torch.testing.assert_close(rotary_frequencies(head_dim, config.rope_parameters), expected, rtol=1e-6, atol=0)


def test_llama3_keeps_high_frequencies_slows_low_ones_down_and_blends_in_between():
    plain = rotary_frequencies(128, {"rope_theta": LLAMA3["rope_theta"]})
    shares = rotary_frequencies(128, LLAMA3) / plain
    assert shares[0] == 1
    assert shares[-1] == 1 / LLAMA3["factor"]
    assert (shares.diff() <= 0).all()
    assert ((shares < 1) & (shares > 1 / LLAMA3["factor"])).sum() > 3


# -- whose weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_it_takes_the_weights_over_without_a_second_copy(tied):
    source = random_model(small(tie_word_embeddings=tied))
    layers = [(layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight) for layer in source.model.layers]
    ends = (source.model.embed_tokens.weight, source.lm_head.weight)
    count = source.num_parameters()
    ours = Llama(source, LENGTH)
    assert all(isinstance(layer, torch.nn.Identity) for layer in source.model.layers)
    for layer, weights in zip(ours.layers, layers, strict=True):
        assert [layer.out.data_ptr(), layer.down.data_ptr()] == [weight.data_ptr() for weight in weights]
    assert [weight.data_ptr() for weight in (ours.embedding, ours.head)] == [weight.data_ptr() for weight in ends]
    assert ours.norm.data_ptr() != source.model.norm.weight.data_ptr()  # it would keep the whole file in memory
    assert sum(weight.numel() for weight in ours.parameters()) == count
    assert not any(weight.requires_grad for weight in ours.parameters())


def test_a_tied_head_is_the_embedding():
    tied, apart = (Llama(random_model(small(tie_word_embeddings=tied)), LENGTH) for tied in (True, False))
    assert tied.head is tied.embedding
    assert not torch.equal(apart.head, apart.embedding)


@pytest.mark.parametrize("tied", [True, False])
def test_a_pass_reads_every_weight_but_an_embedding_that_is_not_the_head(tied):
    ours = Llama(random_model(small(tie_word_embeddings=tied)), LENGTH)
    read = {id(weight) for weight in ours.read_once_a_pass()}
    left_out = [name for name, weight in ours.named_parameters() if id(weight) not in read]
    assert left_out == ([] if tied else ["embedding"])


def test_a_process_may_hold_more_programs_of_a_layer_than_torch_compile_allows_by_itself() -> None:
    """A target and its draft in int8 need more than the 8 that are allowed: for one token and for many, of each."""
    with torch._dynamo.config.patch(recompile_limit=8):
        Llama(of_family("llama"), 32).compile_layers()
        assert torch._dynamo.config.recompile_limit >= 64
