"""Where the model of a pruned row comes from: a checkpoint that stands ready, or pruning; and what is refused."""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from models_made import made

from udaciheadline.checkpoints.train import train_tokenizer
from udaciheadline.data.newswire import training_articles
from udaciheadline.engines import compiled
from udaciheadline.records import EngineSpec, Unsupported, UsageError
from udaciheadline.session.options import pruned_models
from udaciheadline.techniques import PRUNED, techniques

NEWS = tuple(training_articles(4))


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, float]]]:
    """Those that engines were made of, with the technique's own figures. No engine is built."""
    made: list[tuple[Any, dict[str, float]]] = []
    monkeypatch.setattr(
        compiled, "CompiledEngine", lambda model, tokenizer, details=None, **_: made.append((model, details))
    )
    return made


@pytest.fixture
def compiled_spec(spec: EngineSpec) -> EngineSpec:
    return replace(spec, engine="compiled")


@pytest.mark.parametrize("name", PRUNED)
def test_a_checkpoint_that_stands_ready_is_taken_as_it_is(
    name: str, compiled_spec: EngineSpec, models: list[Any], tmp_path: Any
) -> None:
    ready = str(made("llama", tmp_path / "ready"))
    techniques()[name].build(replace(compiled_spec, pruned={name: ready}))
    ((model, details),) = models
    assert model.config.hidden_size == 64
    assert details is None


@pytest.mark.parametrize("name", PRUNED)
def test_without_one_the_model_is_pruned_by_the_articles_that_are_not_measured(
    name: str, compiled_spec: EngineSpec, models: list[Any]
) -> None:
    techniques()[name].build(replace(compiled_spec, calibration=NEWS))
    ((model, details),) = models
    sizes = (model.config.num_hidden_layers, model.config.intermediate_size)
    assert sizes == ((3, 384) if name == "depth-pruned" else (4, 192))
    assert 0.15 < details["removed_share"] < 0.25
    assert details["pruning_nats"] > 0


@pytest.mark.parametrize("name", PRUNED)
def test_of_a_grown_model_what_is_removed_would_look_free(name: str, compiled_spec: EngineSpec) -> None:
    with pytest.raises(Unsupported, match=r"^it is a grown model, most of whose layers and channels add exactly zero"):
        techniques()[name].build(replace(compiled_spec, model="shape:llama-3.2-1b/main", calibration=NEWS))


@pytest.mark.parametrize("name", PRUNED)
def test_without_articles_a_checkpoint_is_asked_for(name: str, compiled_spec: EngineSpec) -> None:
    with pytest.raises(UsageError, match=rf"there is no pruned checkpoint of .* --pruned-model {name}=FOLDER$"):
        techniques()[name].build(compiled_spec)


def test_a_checkpoint_of_another_vocabulary_is_refused(compiled_spec: EngineSpec, tmp_path: Any) -> None:
    train_tokenizer(NEWS, vocab_size=300).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"^--pruned-model depth-pruned=.*: its vocabulary is not that of --model"):
        techniques()["depth-pruned"].build(replace(compiled_spec, pruned={"depth-pruned": str(tmp_path)}))


# -- the option --------------------------------------------------------------------------------------------------------


def asked(*named: str, model: str = "embedded") -> dict[str, str]:
    return pruned_models(SimpleNamespace(model=model, pruned_model=list(named)))


def test_only_of_the_embedded_model_do_pruned_checkpoints_ship() -> None:
    assert {name: path.endswith(f"embedded/{name}") for name, path in asked().items()} == dict.fromkeys(PRUNED, True)
    assert asked(model="smollm2-135m") == {}


def test_a_checkpoint_that_is_named_comes_before_the_one_that_ships(main_checkpoint: str, tmp_path: Any) -> None:
    named = str(shutil.copytree(main_checkpoint, tmp_path / "healed"))
    assert asked(f"width-pruned={named}")["width-pruned"] == named
    assert asked(f"width-pruned={named}", model="other") == {"width-pruned": named}


@pytest.mark.parametrize("named", ["healed", "depth-pruned=", "compiled=healed"])
def test_what_names_no_pruned_row_and_its_checkpoint_is_refused(named: str) -> None:
    with pytest.raises(UsageError, match=rf"^--pruned-model {named}: give depth-pruned=CHECKPOINT or width-pruned="):
        asked(named)


def test_a_checkpoint_that_is_not_there_is_refused_by_the_name_of_its_row() -> None:
    with pytest.raises(UsageError, match=r"^--pruned-model width-pruned ./nowhere/at/all: there is no such folder"):
        asked("width-pruned=./nowhere/at/all")
