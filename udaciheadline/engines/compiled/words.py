"""The products of `products.py` with weights in 8 or 4 bits, in Triton.

There are a half or a quarter of the bytes, but as many numbers to multiply: what counts now is how many instructions a
weight costs, and that the memory never waits for them.

* **x once, rows in a stream.** A program reads x, takes its norm, keeps it in registers, and multiplies one block of
  rows after the other with it, while the next block is on its way. There are as many programs as run at a time.
* **No conversions.** A GPU converts few integers at a time. Instead, a code is cut out of its word and put behind the
  exponent of a power of two, where its bits count ones: that is the code and the power of two, as a float. The power
  is taken off the whole sum. Exponents are arguments of the kernel: two constants in one operation would be two. In 4
  bits, codes are put to three places, so that two shifts serve eight of them: what float32 loses behind 2^15 is a sixth
  of what bfloat16 loses of x. Bits of fp8 are put where a float32 has them: what that is too small by is made up for at
  the end.

A word of 32 bits has CODES codes, and its kth meets the number of x that lies k * GROUP behind the first one's (see
`weights.py`). FLOAT: codes are fp8.
"""

import triton
import triton.language as tl

from udaciheadline.engines.compiled.kernels import take_turn
from udaciheadline.engines.compiled.products import finish

EXPONENTS = (0x47000000, 0x45000000, 0x43000000)  # of 2^15, 2^11 and 2^7, where bits 8, 12 and 16 count ones
PLACES = tl.constexpr((0, 1, 0, 1, 2, 0, 1, 2))  # which of them the kth code of 4 bits is put behind
SIDE_BY_SIDE = tl.constexpr(4)  # words that a thread asks for with one load


@triton.jit
def raised(words, k: tl.constexpr, bits, CODES: tl.constexpr, FLOAT: tl.constexpr):
    """The kth codes of words as float32, too large by what `excess` says; of FLOAT, by a factor of 2^-120."""
    if FLOAT:
        own = words << (24 - 8 * k) if k < 3 else words
        return ((own >> 4) & -0x78100000).to(tl.float32, bitcast=True)  # the sign, and seven bits from bit 20 on
    elif CODES == 4:
        own = words << 8 if k == 0 else words if k == 1 else words >> (8 * k - 8)
        return ((own & 0x0000FF00) | bits[0]).to(tl.float32, bitcast=True)
    else:
        own = words << 8 if k < 2 else words if k < 5 else words >> 12
        return ((own & (0x00000F00 << 4 * PLACES[k])) | bits[PLACES[k]]).to(tl.float32, bitcast=True)


@triton.jit
def excess(k: tl.constexpr, CODES: tl.constexpr):
    """The power of two above a kth code, and what makes codes positive."""
    if CODES == 4:
        return 32768.0 + 128.0
    else:
        return 2.0 ** (15 - 4 * PLACES[k]) + 8.0


@triton.jit
def read_x(
    x_ptr, norm_ptr, place, LENGTH: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr, WORDS: tl.constexpr
):  # fmt: skip
    """x, times its norm's weights, as CODES parts (1, WORDS): what each word's codes meet. With it, what the codes'
    excess makes of that, for words `side_by_side`, the sum of it, and that of squares of x.

    All of 32 bits and one row, they are divided among threads as the rows of words are, and move nowhere to meet them.
    """
    inside = place < LENGTH
    first = place // GROUP * (CODES * GROUP) + place % GROUP
    above = tl.zeros((1, WORDS), tl.float32)
    squares = tl.zeros((1, WORDS), tl.float32)
    parts = ()
    for k in tl.static_range(CODES):
        x = tl.load(x_ptr + first + k * GROUP, mask=inside, other=0.0)
        if norm_ptr is not None:
            squares += x * x
            x *= tl.load(norm_ptr + first + k * GROUP, mask=inside, other=0.0)
        above += excess(k, CODES) * x
        parts += (x,)  # type: ignore[assignment]
    return parts, side_by_side(above), tl.sum(above, 1), tl.sum(squares, 1)


@triton.jit
def side_by_side(x):
    """Sums (rows, WORDS / SIDE_BY_SIDE) of what is side by side in x (rows, WORDS): all of it one thread's."""
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // SIDE_BY_SIDE, SIDE_BY_SIDE)), 2)


@triton.jit
def load_rows(
    words_ptr, scale_ptr, rows, place, first, last,
    LENGTH: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Words (rows, WORDS) of these rows, counted from the `first` on, and the scales of words side by side or, but for
    4 bits, of each row. From the `last` row on nothing is loaded, nor is anything defined."""
    row = (first + rows).to(tl.int64)[:, None]
    there = (rows < last)[:, None]
    if place.shape[1] > LENGTH:
        there &= place < LENGTH
    words = tl.load(words_ptr + row * LENGTH + place, mask=there)  # what is not loaded meets zeros, or is not stored
    if CODES == 8:
        group = tl.arange(0, place.shape[1] // SIDE_BY_SIDE)[None, :] // (GROUP // SIDE_BY_SIDE)
        asked = (rows < last)[:, None] & (group < LENGTH // GROUP)
        scales = tl.load(scale_ptr + row * (LENGTH // GROUP) + group, mask=asked, other=0.0)
    else:
        scales = tl.load(scale_ptr + first + rows, mask=rows < last)
    return words, scales


@triton.jit
def multiply(words, scales, parts, above, all_above, bits, CODES: tl.constexpr, FLOAT: tl.constexpr):
    """The products (rows) of words (rows, WORDS) with x in parts; `above` as in `read_x`, and its sum."""
    total = raised(words, 0, bits, CODES, FLOAT) * parts[0]
    for k in tl.static_range(1, CODES):
        total += raised(words, k, bits, CODES, FLOAT) * parts[k]
    if FLOAT:
        return tl.sum(total, 1) * 2.0**120 * scales
    elif CODES == 8:
        return tl.sum((side_by_side(total) - above) * scales.to(tl.float32), 1)
    else:
        return (tl.sum(total, 1) - all_above) * scales


@triton.jit
def project_words_kernel(
    x_ptr, norm_ptr, words_ptr, scale_ptr, bias_ptr, out_ptr, eps, inboxes_ptr, step_ptr, word, bits,
    IN: tl.constexpr, OUT: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr, FLOAT: tl.constexpr,
    ROWS: tl.constexpr, WORDS: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, RANKS: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """`products.project_kernel` of words (OUT, IN / CODES) and scales, (OUT) or for 4 bits (OUT, IN / CODES / GROUP).

    The first block of rows is loaded before the wait.
    """
    place = tl.arange(0, WORDS)[None, :]
    LENGTH: tl.constexpr = IN // CODES
    programs = tl.num_programs(0)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    words, scales = load_rows(words_ptr, scale_ptr, rows, place, 0, OUT, LENGTH, CODES, GROUP)
    if GATED:
        up_words, up_scales = load_rows(words_ptr, scale_ptr, rows, place, OUT, OUT, LENGTH, CODES, GROUP)
    take_turn(AHEAD)
    parts, above, all_above, squares = read_x(x_ptr, norm_ptr, place, LENGTH, CODES, GROUP, WORDS)
    mean = squares / IN + eps
    for _ in range(tl.cdiv(OUT - tl.program_id(0) * ROWS, programs * ROWS)):
        real = rows < OUT
        following = rows + programs * ROWS
        next_words, next_scales = load_rows(words_ptr, scale_ptr, following, place, 0, OUT, LENGTH, CODES, GROUP)
        y = multiply(words, scales, parts, above, all_above, bits, CODES, FLOAT)
        words, scales = next_words, next_scales
        up = y
        if GATED:
            next_words, next_scales = load_rows(words_ptr, scale_ptr, following, place, OUT, OUT, LENGTH, CODES, GROUP)
            up = multiply(up_words, up_scales, parts, above, all_above, bits, CODES, FLOAT)
            up_words, up_scales = next_words, next_scales
        bias = tl.zeros((ROWS,), tl.float32)
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + rows, mask=real, other=0.0).to(tl.float32)
        added = tl.zeros((ROWS,), tl.float32)
        if ADD and RANKS == 1:
            added = tl.load(out_ptr + rows, mask=real, other=0.0)
        finish(
            y, up, mean, bias, added, out_ptr, inboxes_ptr, step_ptr, word, rows, real, norm_ptr is not None, GATED,
            RANKS,
        )  # fmt: skip
        rows = following


@triton.jit
def best_words_kernel(
    x_ptr, norm_ptr, words_ptr, scale_ptr, value_ptr, token_ptr, bits,
    IN: tl.constexpr, OUT: tl.constexpr, CODES: tl.constexpr, GROUP: tl.constexpr, FLOAT: tl.constexpr,
    ROWS: tl.constexpr, WORDS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """`products.best_kernel` of words (OUT, IN / CODES) with codes of 8 bits, and scales (OUT)."""
    place = tl.arange(0, WORDS)[None, :]
    LENGTH: tl.constexpr = IN // CODES
    programs = tl.num_programs(0)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    words, scales = load_rows(words_ptr, scale_ptr, rows, place, 0, OUT, LENGTH, CODES, GROUP)
    take_turn(AHEAD)
    parts, above, all_above, _ = read_x(x_ptr, norm_ptr, place, LENGTH, CODES, GROUP, WORDS)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    tokens = rows
    for _ in range(tl.cdiv(OUT - tl.program_id(0) * ROWS, programs * ROWS)):
        following = rows + programs * ROWS
        next_words, next_scales = load_rows(words_ptr, scale_ptr, following, place, 0, OUT, LENGTH, CODES, GROUP)
        logits = multiply(words, scales, parts, above, all_above, bits, CODES, FLOAT)
        better = (rows < OUT) & (logits > best)
        best, tokens = tl.where(better, logits, best), tl.where(better, rows, tokens)
        words, scales, rows = next_words, next_scales, following
    top = tl.max(best, 0)
    tl.store(value_ptr + tl.program_id(0), top)
    tl.store(token_ptr + tl.program_id(0), tl.min(tl.where(best == top, tokens, OUT), 0))
