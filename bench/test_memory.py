"""Peaks of device and host memory, in a pass of their own, and the size of the weights."""

from udaciheadline.session.row import Row


def test_memory_peak_holds_the_weights(row: Row) -> None:
    """A peak below the weights' own size would mean that it was read in the wrong process or on the wrong device."""
    memory = row.measure_memory()
    peak = sum(memory.device_allocated_peak_bytes) or memory.host_peak_bytes
    assert peak is None or peak >= row.info.weights_bytes
