"""How a product of a matrix with one vector is divided among a GPU's programs: chosen by its shape alone.

Each kind of product wants its kind of tile:

* **Long**: a multiprocessor's share of the matrix is more than its registers hold. Bandwidth decides: programs follow
  one another, each with tiles so large that enough bytes are on their way, and with the first tile before the wait.
* **Short**: all of the matrix is on its way at once, before the wait, and what remains behind it is a chain of
  latencies: load the vector, multiply, sum over threads. So programs have few rows and there are some for nearly all
  multiprocessors, and a row is few tiles, each of which a thread asks for with one load.

* **In few bits** (`stream`): a program reads x once, and one block of rows after the other, the next one on its way
  while this one is multiplied; there are as many programs as run at a time.

The numbers are what one turns when another GPU is measured. Sizes need not be powers of two: the last tile of a row,
and the last program, hang over the end, behind which nothing is loaded.
"""

from typing import NamedTuple

SHORT_BYTES = 48 * 1024  # a multiprocessor's share of a short product at most; its registers hold 256 KB
ROWS = 8  # a program multiplies at most, in a long product
GATED_ROWS = 2  # of gate and of up each
SHORT_ROWS = 4  # in a short product
SHORT_TILES = 3  # of a row, all of them loaded before the wait
COLUMNS = 1024  # at a time at most; half of it of longer rows than LONGEST, for which registers would not do
LONGEST = 8192
IDLE = 1 / 8  # of a row's length that its last tile may hang over the end
WARPS = 4  # of a program at most
FILLED = 3 / 4  # of the multiprocessors get a program, where there are rows enough
STREAM_WEIGHTS = 16 * 1024  # of a block of rows
STREAM_ROWS = {4: 8, 8: 4}  # of it at most, for so many codes a word
STREAM_GATED_ROWS = 4  # of gate and of up each
STREAM_WARPS = {4: 20, 8: 16}  # a multiprocessor, likewise
WORD_BYTES = 4
WARP_BYTES = 512  # of a row that a warp reads with one load
HEAD_ROWS = 32  # of the head a program compares, one tile's rows after the other


class Tile(NamedTuple):
    """Rows of a program; columns of a tile; tiles of a row that are loaded before the wait; warps of a program."""

    rows: int
    columns: int
    first: int
    warps: int


def tile(rows: int, columns: int, size: int, gated: bool, processors: int) -> Tile:
    """The tile for a matrix (rows, columns) of elements of `size` bytes, or for two of it where gated, on a GPU of so
    many multiprocessors."""
    matrices = 2 if gated else 1
    short = matrices * rows * columns * size <= SHORT_BYTES * processors
    most = spread(rows, GATED_ROWS if gated else SHORT_ROWS if short else ROWS, processors)
    if not short:
        wide = fitting(columns, COLUMNS if columns <= LONGEST else COLUMNS // 2)
        return Tile(most, wide, min(COLUMNS // wide, -(-columns // wide)), WARPS)
    wide = 16
    while wide * SHORT_TILES < columns:
        wide *= 2
    return Tile(most, wide, -(-columns // wide), WARPS // matrices)


class Stream(NamedTuple):
    """Rows of a block, of which `programs` take one after the other; words of a row, as a power of two; warps."""

    rows: int
    words: int
    warps: int
    programs: int


def stream(rows: int, length: int, columns: int, gated: bool, processors: int) -> Stream:
    """How a matrix of `rows` rows of `length` words, in which are `columns` codes, or two of it where gated, is divided
    among programs."""
    words = 16
    while words < length:
        words *= 2
    share = 2 if columns > LONGEST else 1  # of longer rows: x would fill the registers of so few warps
    codes = columns // length
    most = max(1, STREAM_WEIGHTS * share // columns)
    most = min(2 ** (most.bit_length() - 1), STREAM_GATED_ROWS if gated else STREAM_ROWS[codes])
    most = spread(rows, most, processors)
    warps = max(1, min(WARPS * share, words * WORD_BYTES // WARP_BYTES))
    programs = max(2, STREAM_WARPS[codes] // warps)
    return Stream(most, words, warps, min(-(-rows // most), processors * programs))


def spread(rows: int, most: int, processors: int) -> int:
    """The rows of a program: at most so many, halved as long as too few multiprocessors would get a program."""
    while most > 1 and -(-rows // most) < FILLED * processors:
        most //= 2
    return most


def fitting(length: int, most: int) -> int:
    """The largest power of two up to `most` whose multiple covers a length with little over."""
    wide = most
    while wide > 16 and -(-length // wide) * wide > length * (1 + IDLE):
        wide //= 2
    return wide
