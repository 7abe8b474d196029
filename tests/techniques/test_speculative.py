"""Drafts whose vocabulary has another size than the target's, and models that cannot draft."""

from dataclasses import replace

import pytest
import torch
from models_made import VOCABULARY, made, saved
from rows import tokens

from udaciheadline.checkpoints.models import load_model
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.compiled import loop
from udaciheadline.engines.compiled.speculation import Choice
from udaciheadline.records import Unsupported
from udaciheadline.techniques import techniques

PADDED = VOCABULARY + 64


@pytest.fixture(scope="module")
def prompts(news):
    return [prompt_for(article.short_description) for article in news[:4]]


def resized(checkpoint, folder, rows):
    """The same model with another number of rows of the vocabulary; further rows would win nearly always."""
    model = load_model(str(checkpoint), device="cpu", dtype="float32")
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[VOCABULARY:] *= 100
    return saved(model, folder)


@pytest.mark.parametrize("tied", [False, True])
def test_a_draft_with_a_larger_padding_of_the_vocabulary_drafts_no_token_that_the_target_lacks(
    spec, tmp_path, prompts, tied
):
    target = made("llama", tmp_path / "target", tie_word_embeddings=tied)
    draft = resized(target, tmp_path / "draft", PADDED)
    padded = techniques()["target"].build(replace(spec, target=str(draft)))
    assert max(padded.generate(prompts[:1])[0].token_ids) >= VOCABULARY  # as it is, it would
    spec = replace(spec, target=str(target), draft=str(draft))
    alone, speculative = (techniques()[name].build(spec) for name in ("target", "speculative"))
    made_with_it = [speculative.generate([prompt])[0] for prompt in prompts]
    assert tokens(made_with_it) == tokens([alone.generate([prompt])[0] for prompt in prompts])
    assert all(g.accepted == g.drafted > 0 for g in made_with_it)


def test_a_target_with_a_larger_padding_of_the_vocabulary_keeps_it_and_writes_its_own_tokens(spec, tmp_path, prompts):
    draft = made("llama", tmp_path / "draft")
    target = resized(draft, tmp_path / "target", PADDED)
    spec = replace(spec, target=str(target), draft=str(draft))
    alone, speculative = (techniques()[name].build(spec) for name in ("target", "speculative"))
    expected = tokens([alone.generate([prompt])[0] for prompt in prompts])
    assert max(max(row) for row in expected) >= VOCABULARY
    assert tokens([speculative.generate([prompt])[0] for prompt in prompts]) == expected


def test_a_smaller_draft_of_the_target_still_helps_it(spec, tmp_path, prompts):
    draft = made("llama", tmp_path / "draft")
    model = load_model(str(draft), device="cpu", dtype="float32")
    model.resize_token_embeddings(PADDED)
    target = saved(model, tmp_path / "target")
    speculative = techniques()["speculative"].build(replace(spec, target=str(target), draft=str(draft)))
    made_with_it = [speculative.generate([prompt])[0] for prompt in prompts]
    assert all(g.accepted == g.drafted > 0 for g in made_with_it)


def test_a_model_whose_state_cannot_go_back_is_not_for_drafting(spec, tmp_path):
    mamba = str(made("mamba", tmp_path / "mamba"))
    with pytest.raises(
        Unsupported, match=r"^its target is a mamba model, whose state cannot take back drafted tokens$"
    ):
        techniques()["speculative"].build(replace(spec, target=mamba, draft=mamba))


@pytest.mark.parametrize("padded", ["draft", "target"])
def test_on_the_compiled_engine_vocabularies_of_other_sizes_draft_for_each_other(
    spec, tmp_path, prompts, padded, monkeypatch
):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(loop, "best_k", lambda *_: Choice(3, 1.0, 3, 1.0))  # whatever is fastest here
    plain = made("llama", tmp_path / "plain")
    larger = resized(plain, tmp_path / "larger", PADDED)
    target, draft = (larger, plain) if padded == "target" else (plain, larger)
    spec = replace(spec, target=str(target), draft=str(draft))
    alone, speculative = (techniques()[name].build(spec) for name in ("target", "compiled-speculative"))
    made_with_it = [speculative.generate([prompt])[0] for prompt in prompts]
    assert tokens(made_with_it) == tokens([alone.generate([prompt])[0] for prompt in prompts])
    assert all(g.drafted > 0 for g in made_with_it)
    if padded == "draft":
        assert any(g.accepted > 0 for g in made_with_it)


def test_a_model_that_the_compiled_engine_does_not_run_drafts_for_none_there(spec, tmp_path):
    mamba = str(made("mamba", tmp_path / "mamba"))
    with pytest.raises(Unsupported, match=r"^it is a mamba model, and the compiled engine runs "):
        techniques()["compiled-speculative"].build(replace(spec, target=mamba, draft=mamba))
