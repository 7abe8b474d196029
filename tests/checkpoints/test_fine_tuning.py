"""Checkpoints that are trained on, pruned first or not, with a teacher or without."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models_made import made

from udaciheadline import train as command
from udaciheadline.checkpoints.examples import Examples, articles_for
from udaciheadline.checkpoints.fine_tuning import fine_tune
from udaciheadline.checkpoints.models import load_model, load_tokenizer, resolve
from udaciheadline.checkpoints.train import train_tokenizer
from udaciheadline.checkpoints.trainer import HeadlineTrainer
from udaciheadline.data.newswire import training_articles
from udaciheadline.data.prompts import make_prompt
from udaciheadline.records import Article, UsageError

pytestmark = pytest.mark.usefixtures("huggingface_cache")

ARTICLES = [Article(f"Ward {n} Votes", f"After {n} hours, ward {n} went to vote.") for n in range(20)]
FAST = ["--device=cpu", "--batch-size=4", "--learning-rate=0.003"]
Train = Callable[..., tuple[Path, list[str]]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dataset") / "votes.jsonl"
    rows = [{"headline": a.headline, "short_description": a.short_description} for a in ARTICLES]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(made("llama", tmp_path_factory.mktemp("checkpoint") / "tiny", intermediate_size=1024))


@pytest.fixture
def train(dataset: str, checkpoint: str, tmp_path: Path) -> Train:
    """Trains the checkpoint on; the folder, and what was said."""

    def train(*options: str, out: str = "out") -> tuple[Path, list[str]]:
        arguments = ["--from", checkpoint, "--dataset", dataset, "--out", str(tmp_path / out), *FAST, *options]
        parsed = command.parse(arguments)
        said: list[str] = []
        fine_tune(parsed, command.pruner(parsed), said.append)
        return tmp_path / out, said

    return train


def losses(said: list[str]) -> dict[str, float]:
    """In nats, by when they were measured."""
    return {line.partition(":")[0]: float(line.split()[1]) for line in said if "nats" in line}


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_learns_the_headlines_of_articles_and_is_saved_as_any_other(train: Train) -> None:
    out, said = train("--steps=30")
    nats = losses(said)
    assert nats["after"] < 0.8 * nats["before"]
    folder = resolve(str(out), "--model")
    assert load_model(folder, device="cpu", dtype="float32").config.num_hidden_layers == 2
    assert json.loads((out / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    assert load_tokenizer(folder)("Ward")["input_ids"]
    assert f"{nats['before']:.4f} → {nats['after']:.4f} nats" in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize(("kind", "sizes"), [("depth", (1, 1024)), ("width", (2, 704))])
def test_what_is_pruned_first_is_smaller_and_the_loss_between_is_told(
    kind: str, sizes: tuple[int, int], train: Train
) -> None:
    out, said = train("--steps=2", "--prune", kind)
    config = load_model(str(out), device="cpu", dtype="float32").config
    assert (config.num_hidden_layers, config.intermediate_size) == sizes
    assert list(losses(said)) == ["before", "pruned", "after"]


def test_a_teacher_is_followed(train: Train, checkpoint: str, tmp_path: Path) -> None:
    _, said = train("--steps=30", out="teacher")
    taught = losses(said)["after"]
    _, said = train("--steps=30", "--teacher", str(tmp_path / "teacher"), out="student")
    assert losses(said)["after"] < (losses(said)["before"] + taught) / 2


def test_the_same_seed_trains_the_same_weights(train: Train) -> None:
    weights = [
        (train("--steps=2", f"--seed={s}", out=f"{i}")[0] / "model.safetensors") for i, s in enumerate((3, 3, 4))
    ]
    first, second, third = (path.read_bytes() for path in weights)
    assert first == second != third


# -- the loss ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(tokenizer: Any) -> dict[str, torch.Tensor]:
    articles = [ARTICLES[0], Article("A Longer Headline Than That", "It is short.")]
    return Examples(articles, tokenizer, 192).__getitems__([0, 1])


@pytest.fixture
def trainer(checkpoint: str, tokenizer: Any, main_checkpoint: str, tmp_path: Path) -> HeadlineTrainer:
    examples = Examples(ARTICLES, tokenizer, 192)
    options = command.parse(["--out", str(tmp_path), "--from", checkpoint, *FAST])
    model, teacher = (load_model(name, device="cpu", dtype="float32") for name in (checkpoint, main_checkpoint))
    return HeadlineTrainer(model, examples, examples, options, tmp_path, teacher=teacher)


def learned(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (n, vocabulary) where a token of a headline comes next, by a whole forward pass."""
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return logits[batch["labels"][:, 1:] != -100]


def test_what_is_learned_is_the_teachers_distribution_of_each_token_of_a_headline(
    trainer: HeadlineTrainer, batch: dict[str, torch.Tensor]
) -> None:
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    q, p = (learned(model, batch).log_softmax(-1) for model in (trainer.model, trainer._teacher))
    torch.testing.assert_close(loss, (p.exp() * (p - q)).sum(-1).mean())


def test_what_is_judged_is_the_likelihood_of_the_true_tokens(
    trainer: HeadlineTrainer, batch: dict[str, torch.Tensor]
) -> None:
    trainer.model.eval()
    labels = batch["labels"][:, 1:]
    true = F.cross_entropy(learned(trainer.model, batch), labels[labels != -100])
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch).detach(), true)


# -- what it learns from -----------------------------------------------------------------------------------------------


def test_articles_that_a_prompt_shows_are_neither_learned_nor_held_out(dataset: str) -> None:
    options = command.parse(["--out=x", "--from=y", f"--dataset={dataset}", "--prompt=few-shot:3"])
    training, held_out, shown = articles_for(options)
    assert [*held_out, *shown, *training] == ARTICLES
    assert (len(held_out), len(shown)) == (2, 3)


def test_the_prompt_stands_before_the_headline(tokenizer: Any) -> None:
    prompt = make_prompt("few-shot:1", ARTICLES[:1], str)
    example = Examples(ARTICLES[1:2], tokenizer, 192, prompt)[0]
    given = example["input_ids"][example["labels"] == -100]
    assert given.tolist() == tokenizer(prompt.fill(ARTICLES[1].short_description))["input_ids"]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--prune=depth"], "--prune depth: say which checkpoint with --from", id="nothing to prune"),
        pytest.param(["--teacher=x"], "--teacher x: say which checkpoint with --from", id="nobody to teach"),
        pytest.param(["--from=x", "--layers=2"], "--layers 2: leave it out: a checkpoint has its own", id="a size"),
        pytest.param(["--from=x", "--tokenizer=y"], "--tokenizer y: leave it out", id="a tokenizer"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        command.parse(["--out=x", *options])


def test_a_teacher_of_another_vocabulary_is_refused(train: Train, tmp_path: Path) -> None:
    other = made("llama", tmp_path / "other")
    train_tokenizer(list(training_articles(4)), vocab_size=300).save_pretrained(other)
    with pytest.raises(UsageError, match=r"^--teacher .*: its vocabulary is not that of --from"):
        train("--teacher", str(other))


def test_a_shape_is_refused(train: Train) -> None:
    with pytest.raises(UsageError, match=r"^--from shape:llama-3.2-1b: a shape is noise around the embedded model"):
        train("--from", "shape:llama-3.2-1b")


def test_a_model_that_cannot_be_pruned_is_refused_and_leaves_nothing(train: Train, tmp_path: Path) -> None:
    other = made("gpt2", tmp_path / "models" / "gpt2")
    with pytest.raises(UsageError, match=r"^--from .*gpt2: it is a gpt2 model"):
        train("--from", str(other), "--prune=depth")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_folder_that_has_something_in_it_is_left_alone(train: Train, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"^--out .*: there is something in it already: name another folder$"):
        train()


def test_ctrl_c_leaves_no_half_of_a_checkpoint(
    dataset: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HeadlineTrainer, "train", interrupt)
    arguments = ["train", "--from", checkpoint, "--dataset", dataset, "--out", str(tmp_path / "out"), *FAST]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 130
    assert "interrupted: nothing was saved" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
