"""The verdict as a reader of the terminal has it."""

from dataclasses import replace

import pytest
from rows import OFFLINE, RECORD, SKIPPED, SPECULATIVE

from udaciheadline.checkpoints.models import resolve
from udaciheadline.evidence.verdict import decide, parse_budget
from udaciheadline.records import Record
from udaciheadline.report.verdict import command, lines_of_python, text
from udaciheadline.techniques import techniques

REFERENCE = replace(RECORD, technique="kv-cache")
COMPILED = replace(RECORD, technique="compiled", settings={"model_name": "embedded", "prompt": "notebook"})


def shown(*records: Record, budget: str = "") -> list[str]:
    return text(decide(records, parse_budget(budget, "interactive")), records).splitlines()


def test_the_answer_is_the_first_line_then_of_what_it_is_true_then_the_command() -> None:
    lines = shown(REFERENCE, COMPILED, budget="p99<1s")
    assert lines[0].startswith("deploy compiled: 2.00 ±0.10 times as fast as the KV cache, ")
    assert lines[1].startswith("It holds for model ")
    assert lines[1].endswith("; goal interactive, budget p99<1s.")
    assert "    udaciheadline write ARTICLES -o HEADLINES.jsonl --technique compiled --model embedded" in lines


def test_each_row_that_lost_has_a_line_with_its_state_and_why() -> None:
    lines = shown(REFERENCE, COMPILED, OFFLINE, SKIPPED)
    assert lines[-2:] == [
        "kv-cache        reference  what all rows are compared with.",
        "compiled-batch  excluded   it takes all articles as one job, which is for --goal offline.",
    ]


def test_a_row_says_what_it_is_beside_the_one_that_it_optimises() -> None:
    (line,) = (line for line in shown(REFERENCE, SPECULATIVE) if "as fast as the KV cache" in line)
    assert "2.00 ±0.10 times as fast as the KV cache (1.50 ±0.12 times as fast as target, which it optimises)" in line


def test_without_a_row_to_deploy_there_is_no_command() -> None:
    lines = shown(REFERENCE, COMPILED, budget="weights<1MiB")
    assert lines[0] == "nothing to deploy: no row that could be chosen keeps the limits (weights<1MiB)."
    assert not any("udaciheadline write" in line for line in lines)


def test_the_answer_has_the_colour_of_its_kind_and_the_losers_theirs() -> None:
    records = [REFERENCE, COMPILED, OFFLINE]
    lines = text(decide(records), records, lambda line, colour: f"<{colour}>{line}").splitlines()
    assert lines[0].startswith("<green>deploy compiled")
    assert lines[-1].startswith("<red>compiled-batch")


def test_the_command_names_what_the_session_was_asked_for_where_it_is_not_the_default() -> None:
    settings = {"model_name": "my model", "prompt": "few-shot:3", "stop": "none", "max_new_tokens": 40}
    made = command(replace(COMPILED, settings=settings | {"engine": "compiled"}))
    assert made == (
        "udaciheadline write ARTICLES -o HEADLINES.jsonl --technique compiled --model 'my model' --prompt few-shot:3 "
        "--stop none --max-new-tokens 40 --engine compiled"
    )


@pytest.mark.parametrize(
    ("device", "dtype", "options"),
    [
        ("cpu", "float32", ""),
        ("cpu", "bfloat16", " --dtype bfloat16"),
        ("cuda", "bfloat16", ""),
        ("cuda", "float32", " --dtype float32"),
    ],
)
def test_the_command_names_a_dtype_that_the_device_would_not_get(device: str, dtype: str, options: str) -> None:
    made = command(replace(COMPILED, settings={"model_name": "embedded", "device": device, "dtype": dtype}))
    assert made.endswith(f"--model embedded{options}")


def test_the_command_of_a_technique_of_two_models_names_both() -> None:
    settings = {"model_name": "small", "target_name": "large", "draft_name": "small"}
    made = command(replace(COMPILED, technique="speculative", settings=settings))
    assert made.endswith("--technique speculative --model small --target large")


def test_the_command_of_a_pruned_row_names_the_checkpoint_that_the_session_named_for_it() -> None:
    settings = {"model_name": "large", "pruned_model": ["depth-pruned=shallow", "width-pruned=narrow"]}
    pruned, other = (command(replace(COMPILED, technique=t, settings=settings)) for t in ("width-pruned", "compiled"))
    assert pruned.endswith("--technique width-pruned --model large --pruned-model width-pruned=narrow")
    assert other.endswith("--technique compiled --model large")


def test_a_technique_that_is_more_than_arguments_of_transformers_has_no_lines_of_python() -> None:
    settings = {"model": "name/of-a-model"}
    with_lines = {name for name in techniques() if lines_of_python(replace(RECORD, technique=name, settings=settings))}
    assert with_lines == {"kv-cache", "static-cache", "int8", "fp4", "nf4", "layer-placement"}


@pytest.mark.parametrize("model", ["shape:llama-3.2-1b/main", "weights.gguf", ""])
def test_a_model_that_transformers_does_not_load_by_its_name_has_no_lines_of_python(model: str) -> None:
    assert lines_of_python(replace(REFERENCE, settings={"model": model})) == []


@pytest.mark.parametrize("technique", ["kv-cache", "nf4"])
def test_the_lines_of_python_write_the_headline(technique: str) -> None:
    settings = {"model": resolve("embedded", "--model"), "dtype": "float32", "device": "cpu", "max_new_tokens": 8}
    names = {"prompt": "Short description: The council of Ambridge voted to close the library.\nHeadline:"}
    exec("\n".join(lines_of_python(replace(RECORD, technique=technique, settings=settings))), names)
    assert names["headline"].split()
    assert "\n" not in names["headline"]
