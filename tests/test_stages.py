import pytest

from udaciheadline.engines._stages import ramp


@pytest.mark.parametrize(("group", "tokens"), [(0, 1024), (1, 2048), (2, 4096), (3, 4096), (30, 4096)])
def test_the_first_groups_of_a_job_are_small(group: int, tokens: int) -> None:
    assert ramp(4096, group, left=100_000) == tokens


@pytest.mark.parametrize(("left", "tokens"), [(9000, 4096), (8000, 4000), (3000, 1500), (1100, 1024), (5, 1024)])
def test_the_last_groups_of_a_job_are_small(left: int, tokens: int) -> None:
    assert ramp(4096, 9, left) == tokens
