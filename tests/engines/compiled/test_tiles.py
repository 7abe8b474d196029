"""How a product is divided among a GPU's programs: covered once, few idle lanes, programs for all multiprocessors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udaciheadline.engines.compiled.tiles import HEAD_ROWS, fitting, tile

H100 = 132  # multiprocessors
shapes = st.tuples(
    st.integers(1, 200_000),
    st.integers(16, 16_384),
    st.sampled_from([2, 4]),
    st.booleans(),
    st.sampled_from([1, 46, H100]),
)


def power_of_two(n: int) -> bool:
    return n > 0 and not n & (n - 1)


@given(shapes)
def test_programs_and_tiles_cover_each_row_and_column_once(shape: tuple[int, int, int, bool, int]) -> None:
    rows, columns, first, warps = tile(*shape)
    for length, part in ((shape[0], rows), (shape[1], columns)):
        parts = -(-length // part)
        assert (parts - 1) * part < length <= parts * part
    assert all(power_of_two(n) for n in (rows, columns, warps))
    assert 1 <= first <= -(-shape[1] // columns)
    assert HEAD_ROWS % rows == 0


@given(shapes)
def test_a_row_of_a_long_product_ends_in_its_last_tile_with_few_idle_lanes(
    shape: tuple[int, int, int, bool, int],
) -> None:
    columns = fitting(shape[1], 1024)
    assert columns == 16 or -shape[1] % columns <= shape[1] / 8


@pytest.mark.parametrize(
    ("length", "expected"),
    [(576, 128), (960, 1024), (1536, 512), (2560, 512), (3072, 1024), (6912, 1024), (8960, 1024), (2048, 1024)],
)
def test_the_widest_tile_that_fits_is_taken(length: int, expected: int) -> None:
    assert fitting(length, 1024) == expected


@pytest.mark.parametrize(("rows", "columns"), [(3072, 2048), (2048, 8192), (6144, 4096), (4096, 4096), (128256, 2048)])
def test_long_products_of_powers_of_two_are_read_in_tiles_of_8_by_1024(rows: int, columns: int) -> None:
    assert tile(rows, columns, 2, False, H100) == (8, 1024, 1, 4)


def test_a_long_gated_product_has_two_rows_of_each_matrix() -> None:
    assert tile(8192, 2048, 2, True, H100) == (2, 1024, 1, 4)


def test_rows_for_which_registers_would_not_do_are_read_in_narrower_tiles() -> None:
    assert tile(4096, 14336, 2, False, H100) == (8, 512, 2, 4)


@pytest.mark.parametrize(
    ("rows", "columns", "gated"), [(960, 576, False), (576, 576, False), (1536, 576, True), (576, 1536, False)]
)
def test_all_of_a_short_product_is_on_its_way_before_the_wait(rows: int, columns: int, gated: bool) -> None:
    shape = tile(rows, columns, 2, gated, H100)
    assert shape.first == -(-columns // shape.columns) <= 3


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [512, 576, 960, 1536, 3072])
def test_nearly_all_multiprocessors_get_a_program(rows: int, gated: bool) -> None:
    assert -(-rows // tile(rows, 576, 2, gated, H100).rows) >= H100 * 3 / 4


def test_a_product_with_too_few_rows_has_a_program_for_each() -> None:
    assert tile(16, 64, 2, False, H100).rows == 1
