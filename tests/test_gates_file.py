"""The file of thresholds, and the one that the project comes with."""

from pathlib import Path

import pytest

from udaciheadline.evidence.gates import Thresholds, load_gates
from udaciheadline.records import UsageError
from udaciheadline.techniques import techniques

GATES = Path(__file__).parents[1] / "bench" / "gates.toml"


def test_a_file_gives_its_thresholds_by_name_and_leaves_the_others_open(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text("[int8]\nrouge_retention_min = 0.9\nweights_ratio_max = 1\n[nf4]\n")
    assert load_gates(path) == {
        "int8": Thresholds(rouge_retention_min=0.9, weights_ratio_max=1),
        "nf4": Thresholds(),
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[int8]\nrouge_min = 0.9\n", ["[int8]", "'rouge_min'", "rouge_retention_min"]),
        (b'[int8]\nparity_min = "all"\n', ["[int8]", "parity_min", "'all'"]),
        (b"[int8]\nparity_min = true\n", ["[int8]", "parity_min", "True"]),
        (b"[int8]\nparity_min = nan\n", ["[int8]", "parity_min", "nan"]),
        (b"[int8]\nnll_max = inf\n", ["[int8]", "nll_max", "inf"]),
        (b"[int8.nll_max]\nmost = 1\n", ["[int8]", "nll_max"]),
        (b"parity_min = 1.0\n", ["'parity_min'", "[technique]"]),
        (b"[int8\nparity_min = 1.0\n", ["cannot be read"]),
        (b"[int8]\nparity_min = 1.0 # \xff\n", ["cannot be read"]),
        (b"[int8]\n[int8]\n", ["cannot be read"]),
        (None, ["cannot be read"]),
    ],
    ids=[
        "unknown threshold",
        "text",
        "truth value",
        "NaN",
        "infinity",
        "table in a table",
        "outside a table",
        "not TOML",
        "not UTF-8",
        "the same table twice",
        "no file",
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_mend(tmp_path: Path, content: bytes | None, said: list[str]) -> None:
    path = tmp_path / "gates.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        load_gates(path)
    assert [words for words in [str(path), *said] if words not in str(error.value)] == []


def test_every_technique_has_a_table_and_every_table_a_technique() -> None:
    assert set(load_gates(GATES)) == {*techniques(), "reference"}


def test_parity_is_asked_of_exactly_the_techniques_that_have_a_row_to_repeat() -> None:
    tables = load_gates(GATES)
    asked = {name for name in techniques() if tables[name].parity_min is not None}
    assert asked == {technique.name for technique in techniques().values() if technique.exact_to}


def test_the_file_sets_an_absolute_floor_for_the_reference_only() -> None:
    floors = {name for name, table in load_gates(GATES).items() if table.rouge1_min is not None and table.nll_max}
    assert floors == {"reference"}
