"""What a model was calibrated to, kept on disk: it takes a minute or two on a CPU, and on a GPU ten seconds for SmolLM2
and more for more columns. It comes out the same each time, and every process of a row, and every job, would wait for
it.

A file has the codes and scales of all projections, and is as large as the packed layers. Its name stands for everything
that they come from: weights, texts, kind, kind of device, and what calibrates. Where there is no room for it, or no
place, each process calibrates for itself.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from udaciheadline.checkpoints import home
from udaciheadline.engines.compiled.calibration import calibrate
from udaciheadline.engines.compiled.weights import Quantized, quantized

SOURCES = [Path(__file__).with_name(name) for name in ("calibration.py", "families.py", "kept.py", "weights.py")]


@torch.no_grad()
def calibrate_once(model: Any, texts: Sequence[Sequence[int]], kind: str) -> dict[str, float]:
    """`calibration.calibrate`, whose result is there from then on: the same weights and scales, and the seconds that it
    took then."""
    if (folder := home.folder("calibrated")) is None:
        return calibrate(model, texts, kind)
    file = folder / f"{home.fingerprint(model, SOURCES, kind, list(map(list, texts)))}.safetensors"
    if details := _restored(model, file):
        return details
    details = calibrate(model, texts, kind)
    _keep(model, kind, file, details)
    return details


def _keep(model: Any, kind: str, file: Path, details: dict[str, float]) -> None:
    """Writes the file, or nothing where that cannot be done; what was not used for long goes."""
    made: dict[str, torch.Tensor] = {}
    for name, projection in model.named_modules():
        if hasattr(projection, "scales"):
            packed = quantized(projection.weight, kind, projection.scales, words=False)
            made[f"{name}.codes"], made[f"{name}.scales"] = packed.codes.cpu(), projection.scales.cpu()
    with contextlib.suppress(OSError, SafetensorError), home.writing(file) as own:
        save_file(made, own, {name: repr(value) for name, value in details.items()})


def _restored(model: Any, file: Path) -> dict[str, float] | None:
    """Puts what is kept into the model, and returns what was noted with it; None where nothing is, or it is damaged."""
    try:
        with safe_open(file, "pt") as kept:
            made = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118, it is no mapping
            details = {name: float(value) for name, value in kept.metadata().items()}
    except (OSError, SafetensorError):
        return None
    home.used(file)
    for name, projection in model.named_modules():
        if (codes := made.get(f"{name}.codes")) is not None:
            weight = projection.weight
            projection.scales, in_a_word = made[f"{name}.scales"].to(weight.device), weight.shape[1] // codes.shape[1]
            weight.copy_(Quantized(codes.to(weight.device), projection.scales, weight.dtype, in_a_word).dense())
    return details
