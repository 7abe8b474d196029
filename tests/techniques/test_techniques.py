"""What each technique is called, when it is available, and which engine it runs on."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import udaciheadline.techniques as room
from udaciheadline.engines import ENGINES, compiled, transformers
from udaciheadline.evidence.gates import load_gates
from udaciheadline.records import Unsupported, UsageError
from udaciheadline.techniques import REFERENCE, Technique, pruning, select, techniques

GATES = Path(__file__).parents[2] / "bench" / "gates.toml"
NAMES = ["baseline", "kv-cache", "static-cache", "compiled", "compiled-batch", "prompt-lookup"]
NAMES += ["pruned", "depth-pruned", "width-pruned", "int8", "compiled-bf16", "compiled-int8", "compiled-fp8"]
NAMES += ["fp4", "nf4", "compiled-int4", "tensor-parallel", "layer-placement", "pipeline-parallel"]
NAMES += ["target", "compiled-target", "speculative", "compiled-speculative"]
FOR_GPUS = ("static-cache", "layer-placement", "compiled-fp8", "prompt-lookup", "compiled-speculative")


# -- the list --------------------------------------------------------------------------------------------------------


def test_the_techniques_have_the_titles_and_the_order_of_the_table():
    assert [(name, technique.name, technique.title) for name, technique in techniques().items()] == [
        ("baseline", "baseline", "Baseline"),
        ("kv-cache", "kv-cache", "KV Caching"),
        ("static-cache", "static-cache", "Static Cache"),
        ("compiled", "compiled", "Compiled"),
        ("compiled-batch", "compiled-batch", "Compiled, Offline"),
        ("prompt-lookup", "prompt-lookup", "Prompt Lookup"),
        ("pruned", "pruned", "Magnitude Unstructured Pruning"),
        ("depth-pruned", "depth-pruned", "Depth Pruning"),
        ("width-pruned", "width-pruned", "Width Pruning"),
        ("int8", "int8", "Quantised 8bit"),
        ("compiled-bf16", "compiled-bf16", "Compiled, bf16"),
        ("compiled-int8", "compiled-int8", "Compiled, 8bit"),
        ("compiled-fp8", "compiled-fp8", "Compiled, fp8"),
        ("fp4", "fp4", "Quantised 4bit"),
        ("nf4", "nf4", "Quantised 4bit (nf4)"),
        ("compiled-int4", "compiled-int4", "Compiled, 4bit"),
        ("tensor-parallel", "tensor-parallel", "Tensor Parallel"),
        ("layer-placement", "layer-placement", "Layer Placement"),
        ("pipeline-parallel", "pipeline-parallel", "Pipeline Parallel"),
        ("target", "target", "Target model"),
        ("compiled-target", "compiled-target", "Compiled Target"),
        ("speculative", "speculative", "Speculative Decoding"),
        ("compiled-speculative", "compiled-speculative", "Compiled Speculative"),
    ]


def test_the_place_in_the_table_is_that_of_the_order_and_not_of_the_file(monkeypatch):
    last = replace(techniques()["pruned"], order=1000)
    monkeypatch.setattr(pruning, "TECHNIQUES", (last,))
    assert list(techniques.__wrapped__()) == [*(name for name in NAMES if name != "pruned"), "pruned"]


def test_no_two_techniques_share_a_place_in_the_table():
    assert len({technique.order for technique in techniques().values()}) == len(techniques())


def test_each_technique_has_its_table_of_gates_and_each_table_its_technique():
    assert load_gates(GATES).keys() == techniques().keys() | {"reference"}


def test_exactly_those_that_must_repeat_another_rows_tokens_have_a_parity_gate():
    with_gate = {name for name, thresholds in load_gates(GATES).items() if thresholds.parity_min is not None}
    assert with_gate == {name for name, technique in techniques().items() if technique.exact_to}


def test_the_row_to_be_repeated_is_a_technique_that_is_measured_before_or_the_reference():
    for technique in techniques().values():
        if technique.exact_to not in (None, REFERENCE):
            assert techniques()[technique.exact_to].order < technique.order


def test_the_row_that_one_makes_faster_is_measured_before_it_or_the_reference():
    for technique in techniques().values():
        if technique.optimises != REFERENCE:
            assert techniques()[technique.optimises].order < technique.order


@pytest.mark.parametrize(
    ("name", "engine", "beside"),
    [
        ("compiled", "compiled", ()),
        ("compiled-int8", "compiled", ("compiled",)),
        ("speculative", "transformers", ("target",)),
        ("compiled-speculative", "compiled", ("target", "compiled-target")),
        ("tensor-parallel", "compiled", ("compiled",)),
        ("tensor-parallel", "transformers", ()),
    ],
)
def test_what_a_row_optimises_or_repeats_and_one_rank_of_a_parallel_one_answer_in_turn_with_it(
    name: str, engine: str, beside: tuple[str, ...]
) -> None:
    assert techniques()[name].beside(engine) == beside


def test_finding_the_techniques_imports_no_torch():
    code = "import sys; from udaciheadline.techniques import techniques; techniques(); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "udaciheadline.techniques.quantization" in output.split()
    assert not {"torch", "transformers", "bitsandbytes"} & set(output.split())


# -- select ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["all"], NAMES),
        (["nf4"], ["nf4"]),
        (["speculative", "baseline", "target"], ["baseline", "target", "speculative"]),
        (["int8", "int8"], ["int8"]),
        (["int8", "all"], NAMES),
        ([], []),
    ],
)
def test_select_gives_each_wanted_technique_once_in_the_order_of_the_table(wanted, chosen):
    assert [technique.name for technique in select(iter(wanted))] == chosen


@pytest.mark.parametrize("wanted", [["int9"], ["int8", "int9"], ["all", "int9"]])
def test_an_unknown_technique_is_a_usage_error_that_lists_the_choices(wanted):
    with pytest.raises(UsageError, match=r"^--technique 'int9': there is no such technique") as caught:
        select(wanted)
    assert str(caught.value).endswith(f"choose from {', '.join(NAMES)}, or all")


@pytest.fixture
def standing_in(monkeypatch):
    """Three of the techniques: one that another stands for, that one, and one whose counterpart there is not."""
    quantised, compiled_one = techniques()["int8"], techniques()["compiled"]
    made = (
        replace(quantised, name="int8", counterpart="compiled-int8"),
        replace(quantised, name="nf4", counterpart="nowhere"),
        replace(compiled_one, name="compiled-int8"),
    )
    monkeypatch.setattr(room, "techniques", lambda: {technique.name: technique for technique in made})


@pytest.mark.parametrize(
    ("engine", "wanted", "chosen"),
    [
        ("transformers", ["int8"], ["int8"]),
        ("transformers", ["all"], ["int8", "nf4", "compiled-int8"]),
        ("compiled", ["int8"], ["compiled-int8"]),
        ("compiled", ["int8", "compiled-int8"], ["compiled-int8"]),
        ("compiled", ["nf4"], ["nf4"]),
        ("compiled", ["all"], ["nf4", "compiled-int8"]),
        ("compiled", ["int8", "all"], ["nf4", "compiled-int8"]),
    ],
)
def test_on_the_compiled_engine_a_counterpart_that_there_is_stands_for_a_technique(standing_in, engine, wanted, chosen):
    assert [technique.name for technique in select(wanted, engine)] == chosen


# -- unavailable -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_about_the_target_needs_one(spec, name):
    reason = techniques()[name].unavailable(replace(spec, target=None, device="cuda"))
    needs_one = name.removeprefix("compiled-") in ("target", "speculative")
    assert reason == ("it needs a target model: name one with --target" if needs_one else None)


@pytest.mark.parametrize("name", NAMES)
def test_with_a_target_every_technique_but_those_of_the_gpu_runs_on_the_cpu(spec, name):
    reason = techniques()[name].unavailable(spec)
    assert reason == ("it needs a CUDA GPU" if name in FOR_GPUS else None)


def test_layer_placement_is_not_for_one_gpu(spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Unsupported, match=r"^it needs a second GPU$"):
        techniques()["layer-placement"].build(replace(spec, device="cuda"))


@pytest.mark.parametrize(("device", "reason"), [("cpu", "it needs a CUDA GPU"), ("cuda", None)])
def test_a_technique_for_gpus_is_unavailable_elsewhere(spec, device, reason):
    technique = Technique("fast", "Fast", 1, build=lambda spec: pytest.fail("built"), needs_cuda=True)
    assert technique.unavailable(replace(spec, device=device)) == reason


COMPILER = "it needs a C++ compiler on the CPU: install g++, or name another in CXX"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_cpp_compiler_no_row_that_is_compiled_runs_on_the_cpu(spec, monkeypatch, name, engine):
    monkeypatch.setattr(shutil, "which", lambda command: None)
    technique = techniques()[name]
    compiles = technique.engine_for(replace(spec, engine=engine)) == "compiled" and not technique.parallel
    needs_one = compiles and name not in FOR_GPUS
    assert (technique.unavailable(replace(spec, engine=engine)) == COMPILER) == needs_one
    assert technique.unavailable(replace(spec, engine=engine, device="cuda")) is None


@pytest.mark.parametrize(("there", "reason"), [("g++", COMPILER), ("my-compiler", None)])
def test_the_compiler_is_the_one_that_cxx_names(spec, monkeypatch, there, reason):
    monkeypatch.setenv("CXX", "my-compiler")
    monkeypatch.setattr(shutil, "which", lambda command: f"/bin/{command}" if command == there else None)
    assert techniques()["compiled"].unavailable(spec) == reason


def test_those_that_are_for_a_reader_who_waits_take_one_prompt_at_a_time_and_one_takes_them_only_as_a_job():
    alone = {name for name, technique in techniques().items() if not technique.batches}
    others = {name for name in NAMES if name.startswith("compiled") and name != "compiled-batch"}
    others |= {"depth-pruned", "width-pruned"}
    assert alone == others | {"prompt-lookup", "speculative"}
    assert [name for name, technique in techniques().items() if technique.offline] == ["compiled-batch"]


# -- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_exists_on_both_engines_goes_to_the_one_asked_for_and_the_others_keep_theirs(spec, name):
    found = {engine: techniques()[name].engine_for(replace(spec, engine=engine)) for engine in ENGINES}
    others = ("depth-pruned", "width-pruned", "pipeline-parallel", "prompt-lookup")
    own = "compiled" if name.startswith("compiled") or name in others else "transformers"
    on_both = name in ("pruned", "tensor-parallel", "target")
    assert found == ({engine: engine for engine in ENGINES} if on_both else dict.fromkeys(ENGINES, own))


@pytest.fixture
def made(monkeypatch):
    """What was asked of the two engines: the class, its model and its options. None of them is built."""
    made = []
    for module, kind in ((transformers, "TransformersEngine"), (compiled, "CompiledEngine")):
        monkeypatch.setattr(
            module, kind, lambda model, tokenizer, kind=kind, **options: made.append((kind, model, options))
        )
    return made


@pytest.mark.parametrize(("engine", "kind"), [("transformers", "TransformersEngine"), ("compiled", "CompiledEngine")])
@pytest.mark.parametrize("name", ["pruned", "target"])
def test_the_engine_is_the_one_that_the_spec_names_with_the_techniques_own_figures(build, made, name, engine, kind):
    build(name, engine=engine)
    ((found, model, options),) = made
    assert found == kind
    assert model.config.num_hidden_layers == (8 if name == "target" else 4)
    assert options["max_new_tokens"] == 8
    assert (options.get("details") or {}).keys() == ({"sparsity", "model_sparsity"} if name == "pruned" else set())


@pytest.mark.parametrize(("name", "alone"), [("compiled", True), ("compiled-batch", False)])
def test_only_the_row_of_single_articles_is_compiled_for_them_at_once(build, made, name, alone):
    build(name)
    ((kind, model, options),) = made
    assert (kind, model.config.num_hidden_layers) == ("CompiledEngine", 4)
    assert options == {"max_new_tokens": 8, "stop": "newline", "alone": alone}
