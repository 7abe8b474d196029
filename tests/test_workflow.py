"""The steps of the GPU gate that teams copy, run as a runner would run them, on runs made by hand."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import PER_ARTICLE, RECORD

from udaciheadline.records import Record
from udaciheadline.session.runs import promote
from udaciheadline.session.store import Store

ROOT = Path(__file__).parent.parent
JOB: Mapping[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "gpu.yml").read_text("utf-8"))["jobs"][
    "bench"
]
STEPS = {step["name"]: step for step in JOB["steps"] if "name" in step}
SLOWER = tuple(ratio - math.log(1.1) for ratio in PER_ARTICLE.log_ratios)


def session(folder: Path, record: Record) -> None:
    store = Store(folder / "results")
    store.append(record)
    store.end(record.run, 0)


def step(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """The step as GitHub's runner runs it, with this environment's commands in the place of the runner's."""
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    environment = {**os.environ, **JOB["env"], "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(("ratios", "status"), [(PER_ARTICLE.log_ratios, 0), (SLOWER, 1)], ids=["same", "slower"])
def test_the_gate_compares_with_the_baseline_writes_the_summary_and_fails_on_a_regression(
    tmp_path: Path, ratios: tuple[float, ...], status: int
) -> None:
    session(tmp_path, RECORD)
    promote(None, tmp_path / "results", tmp_path / "baselines")
    session(tmp_path, replace(RECORD, run="now", per_article=replace(PER_ARTICLE, log_ratios=ratios)))
    done = step(tmp_path, "compare")
    assert done.returncode == status, done.stderr
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert summary == done.stdout
    assert ("SLOWER" in summary) == bool(status)


def test_the_gate_fails_where_the_baseline_is_for_another_gpu(tmp_path: Path) -> None:
    session(tmp_path, RECORD)
    promote(None, tmp_path / "results", tmp_path / "baselines")
    session(tmp_path, replace(RECORD, run="now", environment={"gpu": "NVIDIA H100"}))
    done = step(tmp_path, "compare")
    assert done.returncode == 4
    assert "there is no baseline for these settings and this device" in done.stderr


def test_the_gate_puts_the_report_into_the_summary(tmp_path: Path) -> None:
    session(tmp_path, RECORD)
    done = step(tmp_path, "report")
    assert done.returncode == 0, done.stderr
    assert "## Technique by technique" in (tmp_path / "summary.md").read_text("utf-8")
    assert "report" in STEPS["install"]["run"]


def test_what_the_gate_measures_is_the_command_of_the_readme() -> None:
    assert STEPS["measure"]["run"] == ".venv/bin/pytest bench $BENCH --benchmark-autosave"
    assert "pytest bench --benchmark-autosave" in (ROOT / "README.md").read_text("utf-8")
