"""Intervals and tests on values paired article by article. Everything here takes plain sequences of floats.

Student's t on paired differences, because near-lossless techniques tie on most articles: a bootstrap of ties gives
intervals of nothing, and an unpaired comparison of 50 headlines cannot see a loss of .04 ROUGE.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from udaciheadline.records import Estimate

ONE_PROCESS = 1.25
"""What the ratio of two speeds may be off by where each is of one process alone, of 95 %: two processes of one program
differ by what no value of one of them shows. The reference against itself was as far from 1 (docs/evidence.md)."""


def mean(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean and Student's t interval. Values without spread give an interval of no width; one value, NaN bounds; a
    value that is not finite, NaN throughout. Raises ValueError where there is no value.
    """
    from scipy.special import stdtrit

    if not values:
        raise ValueError("a mean needs at least one value")
    if not all(map(math.isfinite, values)):
        return Estimate(math.nan, math.nan, math.nan)
    centre = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(centre, math.nan, math.nan)
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * _standard_error(values, centre)
    return Estimate(centre, centre - half, centre + half)


def blocks(count: int, launches: int) -> list[range]:
    """The numbers of the values that belong to each launch: one block after the other, as equal as they can be."""
    ends = [count * launch // launches for launch in range(launches + 1)]
    return [range(*ends) for ends in pairwise(ends)]


def turns(count: int) -> list[list[int]]:
    """Orders in which so many programs may take turns, one round after the other, and again from the first: within
    rounds each follows each other one equally often, so that what one leaves behind is in the times of all others alike
    (Williams 1949, https://doi.org/10.1071/CH9490149). None of more than two is last in one round and first in the
    next, where it would find its own caches warm."""
    zigzag = [i // 2 if i % 2 == 0 else count - 1 - i // 2 for i in range(count)]
    shifted = [[(i + shift) % count for i in zigzag] for shift in range(count)]
    orders = [shifted[-shift] for shift in range(count)]
    return orders + [shifted[shift - 1][::-1] for shift in range(count)] if count % 2 else orders


def launch_means(values: Sequence[float], launches: int) -> list[float]:
    """The mean of each launch's values, which are in `blocks`."""
    return [math.fsum(values[i] for i in block) / len(block) for block in blocks(len(values), launches)]


def launch_mean(values: Sequence[float], launches: int) -> Estimate:
    """The mean of values that were measured in so many launches of a program, in `blocks`, with Student's t interval of
    the launches' means: two processes of one program differ, and no number of values of one process shows by how much.

    Of one launch, it is `mean`, and that is not in its interval. Kalibera and Jones 2013
    (https://kar.kent.ac.uk/33611/).
    """
    if launches == 1:
        return mean(values)
    return mean(launch_means(values, launches))


def geometric_mean(logarithms: Sequence[float], launches: int) -> Estimate:
    """The geometric mean of ratios, given their logarithms, with the interval of their `launch_mean`: for speed-ups. Of
    one launch, what `ONE_PROCESS` leaves open is in it, too."""
    log = launch_mean(logarithms, launches)
    unknown = math.log(ONE_PROCESS) if launches == 1 else 0.0
    below, above = (math.hypot(half, unknown) for half in (log.value - log.low, log.high - log.value))
    return Estimate(*map(math.exp, (log.value, log.value - below, log.value + above)))


def p_worse(differences: Sequence[float]) -> float:
    """One-sided paired t test: the probability of differences this far below 0 if the true mean were 0 or above.

    Differences without spread decide by their sign: a loss that is the same everywhere is certain, no loss is none.
    A single difference proves nothing. One that is not a number, as a broken model gives, is worse for certain.
    """
    from scipy.special import stdtr

    if any(map(math.isnan, differences)):
        return 0.0
    if len(differences) < 2:
        return 1.0
    centre = math.fsum(differences) / len(differences)
    error = _standard_error(differences, centre)
    if error == 0.0:
        return 0.0 if centre < 0 else 1.0
    return float(stdtr(len(differences) - 1, centre / error))


@dataclass(frozen=True)
class Welch:
    """Two samples compared: the `difference` of their means with its 95 % interval, the probability `p_less` of one so
    far below 0 or further if the true one were 0, and the loss `detectable` with 80 % power at 5 %, as below."""

    difference: Estimate
    p_less: float
    detectable: float


def welch(values: Sequence[float], others: Sequence[float], margin: float = 0.0) -> Welch:
    """The mean of `values` minus that of `others`, by Welch's t test; a single value on either side proves nothing. A
    loss that is to be detected is beyond the `margin`, too.

    Samples without spread decide by the sign of their difference, as in `p_worse`.
    """
    from scipy.special import stdtr, stdtrit

    means = [math.fsum(sample) / len(sample) for sample in (values, others)]
    centre = means[0] - means[1]
    if min(len(values), len(others)) < 2:
        return Welch(Estimate(centre, math.nan, math.nan), 1.0, math.nan)
    squares = [_standard_error(sample, m) ** 2 for sample, m in zip((values, others), means, strict=True)]
    if not (variance := sum(squares)):
        return Welch(Estimate(centre, centre, centre), 0.0 if centre < 0 else 1.0, margin)
    # Shares first: the squares of squares of small errors would be 0.
    terms = ((square / variance) ** 2 / (len(s) - 1) for square, s in zip(squares, (values, others), strict=True))
    degrees, error = 1 / sum(terms), math.sqrt(variance)
    half = float(stdtrit(degrees, 0.975)) * error
    least = max(float(stdtrit(degrees, 0.95)) * error, margin) + float(stdtrit(degrees, 0.8)) * error
    return Welch(Estimate(centre, centre - half, centre + half), float(stdtr(degrees, centre / error)), least)


def p_at_least(count: int, of: int, share: float) -> float:
    """One-sided binomial test: the probability of at least `count` cases among so many, if each is one with
    probability `share`."""
    from scipy.special import bdtrc

    return float(bdtrc(count - 1, of, share)) if count else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for testing all of them together (Holm 1979), in the order given."""
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = running
    return adjusted


def detectable(differences: Sequence[float], power: float = 0.8, level: float = 0.05, margin: float = 0.0) -> float:
    """The smallest mean loss that a one-sided paired t test on as many such articles finds with `power`, beyond a
    `margin` within which no loss counts."""
    from scipy.special import stdtrit

    if len(differences) < 2:
        return math.nan
    degrees = len(differences) - 1
    error = _standard_error(differences, math.fsum(differences) / len(differences))
    return max(float(stdtrit(degrees, 1 - level)) * error, margin) + float(stdtrit(degrees, power)) * error


def more_to_tell(effect: float, halves: Sequence[float], count: int, power: float = 0.8) -> int | None:
    """How many values beside these `count` would part two estimates that are `effect` apart and have 95 % intervals of
    these half widths, with `power`: the effect that so many part is the sum of the halves, and what power costs beyond
    that, and it falls with the root of their number. Student's t falls too, which is not counted: of few values it is
    rather too many. None where that cannot be said, or is more than a hundred times as many: they are alike.
    """
    from scipy.special import stdtrit

    if count < 2 or not effect > 0 or not all(map(math.isfinite, halves)):
        return None
    beyond = float(stdtrit(count - 1, power) / stdtrit(count - 1, 0.975))
    least = math.fsum(halves) + beyond * math.hypot(*halves)
    more = count * ((least / effect) ** 2 - 1)
    return max(1, math.ceil(more)) if more <= 100 * count else None


def _standard_error(values: Sequence[float], centre: float) -> float:
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
