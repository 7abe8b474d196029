"""Joules a headline, in a pass of its own, where the machine counts them."""

import pytest

from udaciheadline.session.row import Row


def test_a_headline_takes_energy(row: Row) -> None:
    energy = row.measure_energy()
    if energy is None:
        pytest.skip("not measured here: neither NVML (nvidia-ml-py) nor RAPL answers")
    assert energy.joules_per_headline > 0
