"""How sure a mean is, when detectors are trained with several seeds on several draws of the data.

A *draw* is a world rendered anew, or a fold. Detectors of one draw share data, backbone and
teacher, so their differences are alike; an interval that is to hold for another world counts draws,
not detectors. Both are given, the second as what it is: too narrow where draws differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev, variance

# A value for each draw and seed.
Values = Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Interval:
    """A mean and Student's t interval around it.

    Attributes:
        mean: Of the values.
        low: The lower end; None for fewer than two values.
        high: The upper end; None likewise.
        sd: Standard deviation of the values; None likewise.
        count: How many values.
    """

    mean: float
    low: float | None
    high: float | None
    sd: float | None
    count: int


@dataclass(frozen=True)
class Spread:
    """A mean over draws and seeds, and how far values lie from it.

    Attributes:
        mean: Of the draws' means, so that a draw with fewer detectors counts as much.
        sd_seeds: Within a draw, pooled over draws; None if no draw has two values.
        sd_draws: Of the draws' means; None for one draw.
        count: How many values.
    """

    mean: float
    sd_seeds: float | None
    sd_draws: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """A difference of two rows that were trained on the same draws with the same seeds.

    Attributes:
        over_draws: Of the draws' mean differences: what another draw may be expected to show.
        over_pairs: Of all differences, as if each were a draw of its own.
        num_positive: Pairs with a difference above zero.
        draws: Mean difference of each draw.
    """

    over_draws: Interval
    over_pairs: Interval
    num_positive: int
    draws: dict[str, float]


def t_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean: ``mean +- t(n - 1) sd / sqrt(n)``.

    Args:
        values: At least one, independent and roughly normal.
        confidence: Share of such intervals that hold the true mean.
    """
    # Loading scipy takes longer than all else here.
    from scipy.stats import t

    found = list(values)
    if len(found) < 2:
        return Interval(found[0], None, None, None, 1)
    middle, sd = mean(found), stdev(found)
    half = float(t.ppf((1 + confidence) / 2, len(found) - 1)) * sd / sqrt(len(found))
    return Interval(middle, middle - half, middle + half, sd, len(found))


def spread(values: Values) -> Spread:
    """Sum up a row; it has at least one value."""
    draws = by_draw(values)
    means = [mean(of_draw) for of_draw in draws.values()]
    several = [of_draw for of_draw in draws.values() if len(of_draw) > 1]
    within = None
    if several:
        squares = sum(variance(of_draw) * (len(of_draw) - 1) for of_draw in several)
        within = sqrt(squares / sum(len(of_draw) - 1 for of_draw in several))
    between = stdev(means) if len(means) > 1 else None
    return Spread(mean(means), within, between, len(values))


def paired(left: Values, right: Values, confidence: float = 0.95) -> Paired | None:
    """Sum up ``left - right`` over the draws and seeds that both have; None if there are none."""
    differences = {key: left[key] - right[key] for key in left if key in right}
    if not differences:
        return None
    draws = {draw: mean(values) for draw, values in by_draw(differences).items()}
    return Paired(
        over_draws=t_interval(draws.values(), confidence),
        over_pairs=t_interval(differences.values(), confidence),
        num_positive=sum(value > 0 for value in differences.values()),
        draws=draws,
    )


def by_draw(values: Values) -> dict[str, list[float]]:
    """The values of each draw."""
    draws: dict[str, list[float]] = {}
    for (draw, _), value in values.items():
        draws.setdefault(draw, []).append(value)
    return draws
