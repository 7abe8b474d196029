"""What was calibrated once is there from then on."""

import copy
import os
import time

import pytest
import torch
from random_models import of_family

from udaciheadline.engines.compiled import calibrate_once, calibration, kept

TEXTS = torch.randint(100, (3, 20), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where files are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "udaciheadline" / "calibrated"


@pytest.fixture
def times(monkeypatch):
    """How often something was calibrated."""
    made = []
    monkeypatch.setattr(kept, "calibrate", lambda *given: made.append(1) or calibration.calibrate(*given))
    return made


def model(dtype=torch.float32):
    return of_family("llama", hidden_size=128, intermediate_size=192, head_dim=32).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_the_second_time_weights_scales_and_details_are_those_of_the_first(times, kind, dtype):
    first, second = model(dtype), model(dtype)
    details = [calibrate_once(own, TEXTS, kind) for own in (first, second)]
    assert len(times) == 1
    assert details[0] == details[1]
    for one, other in zip(first.modules(), second.modules(), strict=True):
        if hasattr(one, "scales"):
            assert torch.equal(one.weight, other.weight)
            assert torch.equal(one.scales, other.scales)


def changed(own):
    own.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    return own


@pytest.mark.parametrize(
    ("other", "texts", "kind"),
    [(changed(model()), TEXTS, "int4"), (model(), TEXTS[:2], "int4"), (model(), TEXTS, "fp8")],
    ids=["weights", "texts", "kind"],
)
def test_other_weights_texts_or_kinds_are_calibrated_anew(times, other, texts, kind):
    calibrate_once(model(), TEXTS, "int4")
    calibrate_once(copy.deepcopy(other), texts, kind)
    assert len(times) == 2


def test_a_damaged_file_is_made_anew(times, folder):
    calibrate_once(model(), TEXTS, "int4")
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    calibrate_once(model(), TEXTS, "int4")
    calibrate_once(model(), TEXTS, "int4")
    assert len(times) == 2


def test_where_nothing_can_be_kept_it_is_calibrated_each_time(times, folder):
    folder.parent.write_text("a file")
    for _ in range(2):
        calibrate_once(model(), TEXTS, "int4")
    assert len(times) == 2


def test_what_nobody_has_used_for_a_month_goes(folder):
    folder.mkdir(parents=True)
    for name, age in (("old", 31), ("new", 29)):
        file = folder / f"{name}.safetensors"
        file.touch()
        os.utime(file, (time.time() - age * 86400,) * 2)
    calibrate_once(model(), TEXTS, "int4")
    assert not (folder / "old.safetensors").exists()
    assert len(list(folder.iterdir())) == 2
