import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from udaciheadline import train as command
from udaciheadline.checkpoints import train
from udaciheadline.checkpoints.examples import Examples, articles_for
from udaciheadline.checkpoints.models import load_model, load_tokenizer, resolve
from udaciheadline.data.newswire import evaluation_articles, training_articles
from udaciheadline.data.prompts import completion_for, prompt_for
from udaciheadline.records import Article, UsageError
from udaciheadline.techniques import PRUNED

pytestmark = pytest.mark.usefixtures("huggingface_cache")

STEPS = 40
TINY = ["--layers=1", "--hidden=32", "--intermediate=48", "--device=cpu", "--batch-size=8", "--learning-rate=0.01"]
TOWNS = [
    first + last for first in ("Ash", "Bex", "Cold", "Dun", "Elm") for last in ("ford", "ham", "ley", "ton", "well")
]


def write_dataset(path: Path, articles: Sequence[Article]) -> Path:
    rows = [{"headline": a.headline, "short_description": a.short_description} for a in articles]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def articles() -> list[Article]:
    """Twenty-five: the last tenth, rounded up, makes three that are held out."""
    return [Article(f"{town} Votes on {n}", f"After {n} hours, {town} went to vote.") for n, town in enumerate(TOWNS)]


@pytest.fixture(scope="module")
def dataset(articles: list[Article], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "votes.jsonl", articles)


@pytest.fixture(scope="module")
def run(huggingface_cache: None) -> Callable[..., None]:
    """Runs the command line."""

    def run(*arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train", *TINY, *map(str, arguments)])
            command.main()

    return run


Run = Callable[..., None]


@pytest.fixture(scope="module")
def checkpoint(run: Run, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    run("--dataset", dataset, "--out", out, "--steps", STEPS)
    return out


@pytest.fixture(scope="module")
def tokenizer(articles: list[Article]) -> PreTrainedTokenizerFast:
    return train.train_tokenizer(articles)


# What a training leaves


def test_a_checkpoint_is_in_the_layout_of_hugging_face(checkpoint: Path) -> None:
    assert {file.name for file in checkpoint.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_checkpoint_loads_and_generates(checkpoint: Path) -> None:
    name = resolve(str(checkpoint), "--model")
    model, tokenizer = load_model(name, device="cpu", dtype="float32"), load_tokenizer(name)
    inputs = tokenizer(prompt_for("After 3 hours, Ashton went to vote."), return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    assert 1 <= len(generated) <= 5
    assert int(generated.max()) < len(tokenizer)


def test_a_checkpoint_is_of_the_size_that_was_asked_for(checkpoint: Path) -> None:
    config = load_model(str(checkpoint), device="cpu", dtype="float32").config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (1, 32, 48)
    assert config.head_dim == 64


def test_a_checkpoint_is_for_greedy_decoding_with_a_cache_in_bfloat16(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    generation = json.loads((checkpoint / "generation_config.json").read_text("utf-8"))
    assert (config["dtype"], config["use_cache"], generation["do_sample"]) == ("bfloat16", True, False)
    tokenizer = load_tokenizer(str(checkpoint))
    for end in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[end] == generation[end] == getattr(tokenizer, end)


def test_training_learns(checkpoint: Path) -> None:
    card = (checkpoint / "README.md").read_text("utf-8")
    found = re.search(r"Held-out loss\*\*: ([\d.]+) nats", card)
    assert found
    assert float(found[1]) < 0.6 * math.log(len(load_tokenizer(str(checkpoint))))  # of a model that knows nothing


def test_the_model_card_tells_what_was_trained_on(checkpoint: Path) -> None:
    card = (checkpoint / "README.md").read_text("utf-8")
    assert f"a dataset of one's own, 22 articles, {STEPS} steps of 8, seed 0." in card


def test_the_same_seed_trains_the_same_weights(run: Run, dataset: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("--dataset", dataset, "--out", tmp_path / name, "--steps=2", "--seed", seed)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_shared_tokenizer_is_the_same_to_the_byte(checkpoint: Path, run: Run, tmp_path: Path) -> None:
    other = [Article(f"Zebra {n} Quits Zoo", f"Zebra {n} will exhibit itself no more.") for n in range(4)]
    dataset = write_dataset(tmp_path / "zebras.jsonl", other)
    run("--dataset", dataset, "--out", tmp_path / "shared", "--steps=1", "--tokenizer", checkpoint)
    shared = tmp_path / "shared"
    assert (shared / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    model = load_model(str(shared), device="cpu", dtype="float32")
    assert model.config.vocab_size == len(load_tokenizer(str(checkpoint)))


# What it learns from


def test_labels_cover_the_headline_and_the_end_of_the_sequence_only(
    articles: list[Article], tokenizer: PreTrainedTokenizerFast
) -> None:
    for article, example in zip(articles, Examples(articles, tokenizer, 192), strict=True):
        is_learned = example["labels"] != -100
        assert torch.equal(example["labels"][is_learned], example["input_ids"][is_learned])
        learned, given = example["input_ids"][is_learned], example["input_ids"][~is_learned]
        assert tokenizer.decode(learned) == completion_for(article.headline) + train.EOS
        assert given.tolist() == tokenizer(prompt_for(article.short_description))["input_ids"]
        assert not is_learned[: len(given)].any()


def test_padding_in_a_batch_is_neither_seen_nor_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    short, long = Article("Ashton Votes", "A vote."), Article("Ashton Votes", "A vote in Ashton, after 3 hours.")
    examples = Examples([short, long], tokenizer, 192)
    alone, batch = examples[0], examples.__getitems__([0, 1])
    length = len(alone["input_ids"])
    assert length < batch["input_ids"].shape[1]
    for name, value in alone.items():
        assert torch.equal(batch[name][0, :length], value)
    assert alone["attention_mask"].all()
    assert not batch["attention_mask"][0, length:].any()
    assert (batch["labels"][0, length:] == -100).all()
    assert batch["attention_mask"][1].all()


def test_articles_that_are_too_long_are_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    article = Article("Ashton Votes", "After 3 hours, Ashton went to vote.")
    longer = Article("Ashton Votes", "After 33 hours, Ashton went to vote.")
    length = len(Examples([article], tokenizer, 192)[0]["input_ids"])
    examples = Examples([longer, article, longer], tokenizer, length)
    assert (len(examples), examples.dropped) == (1, 2)
    assert completion_for(article.headline) in tokenizer.decode(examples[0]["input_ids"])
    with pytest.raises(UsageError, match=f"no article fits in {length - 1} tokens: give a larger --max-length"):
        Examples([article], tokenizer, length - 1)


def test_the_first_tenth_of_a_dataset_which_is_what_is_measured_first_is_held_out(
    articles: list[Article], dataset: Path
) -> None:
    training, held_out, shown = articles_for(command.parse(["--out=x", f"--dataset={dataset}"]))
    assert (list(held_out), list(training), list(shown)) == (articles[:3], articles[3:], [])


def test_the_embedded_newswire_holds_its_evaluation_articles_out() -> None:
    training, held_out, _ = articles_for(command.parse(["--out=x", "--articles=5", "--seed=9"]))
    assert list(training) == list(training_articles(5, seed=9))
    assert held_out == evaluation_articles()


def test_other_columns_are_learned_from_when_named(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("title,body\nA,a\nB,b\n", "utf-8")
    options = ["--out=x", f"--dataset={tmp_path / 'news.csv'}", "--text-column=body", "--headline-column=title"]
    assert articles_for(command.parse(options)) == ((Article("B", "b"),), (Article("A", "a"),), ())


# The tokenizer


@pytest.mark.parametrize("text", [" Ashton Votes on 12", "Ünknown: \N{SNOWMAN} «x»\n\ttabs  spaces", "日本語 🎉"])
def test_a_tokenizer_gives_any_text_back(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_digits_stay_single_so_that_figures_can_be_copied(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("12 of 2024")["input_ids"])
    assert [token for token in tokens if re.search(r"\d", token)] == list("122024")


def test_a_text_begins_with_the_token_for_it_and_is_not_ended(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Ashton")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


# What the command line refuses


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--dataset=no-such.jsonl"], "no-such.jsonl: there is no such file", id="a missing dataset"),
        pytest.param(["--text-column=body"], "no field 'body'", id="a dataset of another form"),
        pytest.param(["--articles=1"], "one article is not enough to train on", id="a single article"),
        pytest.param(["--articles=0"], "argument --articles: 0 is less than 1", id="no article"),
        pytest.param(["--max-length=3"], "no article fits in 3 tokens", id="too short a length"),
        pytest.param(
            ["--dataset=embedded", "--articles=0"], "argument --articles: 0 is less than 1", id="no embedded article"
        ),
        pytest.param(["--steps=0"], "argument --steps: 0 is less than 1", id="no step"),
        pytest.param(["--tokenizer=no/such-tokenizer"], "no/such-tokenizer", id="an unknown tokenizer"),
        pytest.param(["--device=cuda"], "--device cuda", id="a GPU that is not there"),
    ],
)
def test_what_cannot_be_used_ends_in_a_usage_error_without_a_traceback(
    options: list[str],
    reason: str,
    dataset: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        run("--dataset", dataset, "--out", tmp_path / "out", "--steps=1", *options)
    written = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in written
    last = written.splitlines()[-1]
    assert last.startswith("python -m udaciheadline.train: error: ")
    assert reason in last


# The models that ship


@pytest.fixture(scope="module", params=["main", "target"])
def shipped(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def folder(role: str) -> Path:
    return Path(resolve("embedded", "--model", role))


def test_a_shipped_model_has_the_architecture_of_llama_3_2_1b(shipped: str) -> None:
    config = load_model(str(folder(shipped)), device="cpu", dtype="bfloat16").config
    assert config.model_type == "llama"
    assert config.head_dim == 64
    assert config.num_attention_heads == 4 * config.num_key_value_heads
    assert config.tie_word_embeddings
    assert (config.hidden_act, config.rms_norm_eps, config.max_position_embeddings) == ("silu", 1e-5, 131072)
    assert not config.attention_bias
    assert not config.mlp_bias
    assert config.rope_parameters == {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_a_shipped_model_is_what_the_trainer_makes_of_its_size(shipped: str) -> None:
    kept = load_model(str(folder(shipped)), device="cpu", dtype="bfloat16").config.to_dict()
    made = train.new_model(train.SIZES[shipped], load_tokenizer(str(folder(shipped)))).config.to_dict()
    of_the_file = {"architectures", "dtype", "transformers_version", "_name_or_path"}
    assert {name: value for name, value in kept.items() if name not in of_the_file} == {
        name: value for name, value in made.items() if name not in of_the_file
    }


def test_the_shipped_models_take_at_most_24_mib_together() -> None:
    sizes = {role: sum(file.stat().st_size for file in folder(role).rglob("*")) for role in ("main", "target")}
    assert sizes["main"] < sizes["target"]
    assert sum(sizes.values()) <= 24 * 2**20


def test_the_shipped_models_have_the_same_tokenizer() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder("main") / name).read_bytes() == (folder("target") / name).read_bytes()


@pytest.mark.parametrize(("role", "sizes"), [("depth-pruned", (3, 384)), ("width-pruned", (4, 192))])
def test_a_pruned_model_that_ships_is_the_main_one_without_a_quarter_of_its_layers(
    role: str, sizes: tuple[int, int]
) -> None:
    pruned, main = (load_model(str(folder(name)), device="cpu", dtype="bfloat16").config for name in (role, "main"))
    assert (pruned.num_hidden_layers, pruned.intermediate_size) == sizes
    for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "rope_parameters"):
        assert getattr(pruned, name) == getattr(main, name)
    assert (folder(role) / "tokenizer.json").read_bytes() == (folder("main") / "tokenizer.json").read_bytes()


def test_the_pruned_models_take_at_most_6_mib_together() -> None:
    assert sum(file.stat().st_size for role in PRUNED for file in folder(role).rglob("*")) <= 6 * 2**20


def test_a_shipped_tokenizer_is_made_for_the_prompt(shipped: str) -> None:
    tokenizer = load_tokenizer(str(folder(shipped)))
    assert len(tokenizer) == 4096
    assert tokenizer.convert_ids_to_tokens(tokenizer(prompt_for("It"))["input_ids"])[0] == train.BOS
    assert (tokenizer.eos_token, tokenizer.pad_token) == (train.EOS, train.PAD)
