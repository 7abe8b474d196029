"""Peaks of device and host memory, in a pass of their own, and the size of the weights."""

from udaciheadline.session.row import Row


def test_memory_peak_holds_the_weights(row: Row) -> None:
    """A peak below the weights' own size would mean that it was read in the wrong process or on the wrong device."""
    memory = row.measure_memory()
    assert memory.peak_bytes is None or memory.peak_bytes >= row.info.weights_bytes
