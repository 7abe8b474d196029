"""Models of other families than Llama: every technique runs them, or says in words why it does not."""

import re
from dataclasses import replace

import pytest
import torch
from models_made import made

from udaciheadline.checkpoints import division
from udaciheadline.checkpoints.models import load_config, load_model
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.texts import Texts
from udaciheadline.records import Unsupported, UsageError
from udaciheadline.techniques import techniques
from udaciheadline.workers.worker import Worker, WorkerError

PARALLEL = [name for name, technique in techniques().items() if technique.parallel]
QUANTISED = ["int8", "fp4", "nf4"]
RUN = ["gpt2", "gpt_neox", "opt", "phi", "gemma"]
SENTENCE = re.compile(r"^(it|its|transformers|bitsandbytes) [^\n]+[^.\n]$")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a family's tiny model."""
    folder = tmp_path_factory.mktemp("families")

    def checkpoint(family):
        return str(folder / family if (folder / family).exists() else made(family, folder / family))

    return checkpoint


@pytest.fixture(scope="module")
def prompts(news):
    return [prompt_for(article.short_description) for article in news[:2]]


def written(engine, prompts):
    """The tokens of each prompt, asked for one by one."""
    return [engine.generate([prompt])[0].token_ids for prompt in prompts]


@pytest.mark.parametrize("name", [name for name in techniques() if name not in PARALLEL])
def test_a_gpt2_runs_in_every_row_or_the_row_says_in_one_sentence_why_not(spec, checkpoint, prompts, name):
    technique, folder = techniques()[name], checkpoint("gpt2")
    spec = replace(spec, model=folder, target=folder, draft=folder)
    spec = replace(spec, engine=technique.engine_for(spec))
    if technique.engines == ("compiled",) or name == "layer-placement":
        with pytest.raises(Unsupported) as caught:
            technique.build(spec)
        assert SENTENCE.match(str(caught.value))
    else:
        engine = technique.build(spec)
        assert all(written(engine, prompts))
        assert min(engine.texts.likelihood(prompts, ["A headline"] * 2)) > 0


@pytest.mark.parametrize("family", RUN)
@pytest.mark.parametrize("name", ["baseline", "static-cache", "speculative"])
def test_rows_that_must_repeat_the_reference_do_so_with_other_families(spec, checkpoint, prompts, name, family):
    folder = checkpoint(family)
    spec = replace(spec, model=folder, target=folder, draft=folder)
    expected = written(techniques()["kv-cache"].build(spec), prompts)
    assert written(techniques()[name].build(spec), prompts) == expected


@pytest.mark.parametrize("family", RUN)
def test_a_batch_of_different_lengths_gives_what_its_prompts_give_one_by_one(spec, checkpoint, prompts, family):
    engine = techniques()["kv-cache"].build(replace(spec, model=checkpoint(family)))
    assert [g.token_ids for g in engine.generate([prompts[0], "A short one:"])] == written(
        engine, [prompts[0], "A short one:"]
    )


# -- quantisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTISED)
def test_the_layers_of_a_gpt2_are_quantised_though_they_are_no_linear_ones(spec, checkpoint, prompts, name):
    spec = replace(spec, model=checkpoint("gpt2"))
    engine, reference = techniques()[name].build(spec), techniques()["kv-cache"].build(spec)
    assert engine.info.weights_bytes < reference.info.weights_bytes
    assert all(written(engine, prompts))


@pytest.mark.parametrize("name", QUANTISED)
def test_a_model_of_which_nothing_is_quantised_is_no_quantised_row(spec, checkpoint, name):
    with pytest.raises(Unsupported, match=r"^bitsandbytes knows no layer of a falcon model, and quantises nothing$"):
        techniques()[name].build(replace(spec, model=checkpoint("falcon")))


def test_a_model_that_does_not_run_quantised_is_no_quantised_row(spec, checkpoint):
    with pytest.raises(Unsupported, match=r"^bitsandbytes cannot run this mamba model on the cpu \([^\n]+\)$"):
        techniques()["int8"].build(replace(spec, model=checkpoint("mamba")))


@pytest.mark.parametrize("name", QUANTISED)
def test_a_pass_for_which_memory_is_missing_says_nothing_about_the_model(spec, checkpoint, name, monkeypatch):
    def likelihood(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Texts, "likelihood", likelihood)
    with pytest.raises(torch.OutOfMemoryError):
        techniques()[name].build(replace(spec, model=checkpoint("gpt2")))


# -- several ranks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "opt", "falcon", "mamba"])
def test_a_family_without_a_plan_is_not_split_over_ranks(checkpoint, family):
    reason = f"^transformers has no plan to split a {family} model over ranks$"
    with pytest.raises(Unsupported, match=reason):
        division.prepare(load_config(checkpoint(family)), 2)


@pytest.mark.parametrize("family", ["gpt_neox", "phi", "gemma", "llama"])
def test_a_family_with_a_plan_is_split_whether_or_not_it_groups_its_heads(checkpoint, family):
    assert division.prepare(load_config(checkpoint(family)), 2).base_model_tp_plan


@pytest.mark.parametrize("name", PARALLEL)
def test_a_row_of_several_ranks_is_skipped_with_a_gpt2_and_does_not_crash(spec, checkpoint, name):
    with pytest.raises(WorkerError) as caught:
        Worker(techniques()[name], replace(spec, model=checkpoint("gpt2")), timeout=120)
    assert caught.value.status == "skipped"


@pytest.mark.parametrize("family", ["gpt_neox", "phi", "gemma"])
def test_a_split_model_of_another_family_writes_what_one_rank_writes(spec, checkpoint, prompts, family):
    spec = replace(spec, model=checkpoint(family))
    expected = techniques()["kv-cache"].build(spec).generate(prompts)
    worker = Worker(techniques()["tensor-parallel"], spec, timeout=120)
    try:
        made = worker.call_all("generate", prompts)
    finally:
        worker.close()
    assert [[g.token_ids for g in rank] for rank in made] == [[g.token_ids for g in expected]] * 2


# -- no causal language models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), [("t5", "an encoder-decoder"), ("bert", "an encoder")])
def test_a_model_that_does_not_write_from_left_to_right_is_refused_in_one_sentence(checkpoint, family, kind):
    with pytest.raises(UsageError) as caught:
        load_model(checkpoint(family), device="cpu", dtype="float32")
    assert str(caught.value) == (
        f"{checkpoint(family)}: it is {kind} ({family}), and headlines are written by causal language models: give one "
        "of those, such as a Llama or a GPT-2"
    )


def test_a_bert_that_was_made_a_decoder_is_a_causal_language_model(tmp_path):
    assert load_model(str(made("bert", tmp_path / "bert", is_decoder=True)), device="cpu", dtype="float32")
