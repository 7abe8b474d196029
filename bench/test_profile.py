"""Where the time goes: a torch.profiler trace and the table of the top operators, with `--profile`."""

import pytest

from udaciheadline.session.row import Row


def test_profile(row: Row, pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("results") / "profile"
    trace, table = row.profile(folder)
    assert trace.stat().st_size > 0
    assert "aten::" in table.read_text("utf-8")
