"""What more articles at a time give, per technique, with `--batch-curve`."""

import pytest

from udaciheadline.session.row import Row


def test_batch_curve(row: Row) -> None:
    curve = row.measure_batch_curve()
    if curve is None:
        pytest.skip(f"{row.technique.title} takes one article at a time")
    if not curve.points:
        pytest.skip("; ".join(f"{size} at a time: {why}" for size, why in curve.left_out))
    assert all(point.headlines_per_second > 0 for point in curve.points)
