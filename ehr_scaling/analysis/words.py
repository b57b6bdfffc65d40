"""The word beside a number, and why: every rule that gives one.

Rooms ask these rules with plain numbers and give no word of their own. docs/laws.md has a row for each, and
tests/analysis/test_words.py a simulated study on either side of each.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.wording import count, decimal, percent, plural, power, significant, span

T = TypeVar("T")
Bounds = tuple[float, float]

SUPPORTED, EXTRAPOLATED, UNIDENTIFIED = "supported", "extrapolated", "unidentified"
DOUBTFUL = "doubtful"  # in place of supported, where what was read may not be what it is taken for
STAYS, MOVES = "stays put", "moves"  # in place of supported, of a best learning rate between sizes
AGREES, DIFFERS = "within seed noise", "differs"  # likewise, of two ways to one loss

FACTORS = ("A", "B", "P", "k", "R_D", "R_N", "N", "D", "D/N")  # told within a factor; other numbers by their width
UNBOUNDED = ("E", "L")  # profiles of losses: no width of theirs is too much
WIDE = 10.0  # an interval of a factor that spans more tells nothing
LEAST_FLOOR = 0.01  # of the lowest loss: a floor that may be lower is not told from none
LEAST_APART = 1.5  # of D at one N, or of N at one D, about the line through all runs: less does not tell the two apart
LEAST_INSIDE = 0.5  # of the sealed runs: intervals that are meant to hold 95 % and hold fewer are none
CHANCE = 0.505  # AUROC: curves that do not leave it behind held what they say in 70 to 80 % of simulated studies
MOST_OFF = 0.03  # mean absolute error in log loss of a forecast that still tells, however wide its intervals
LEAST_CELLS = 3  # that two tables share
NEAR = 1.0  # factors of two that count as the same rate: sweeps are rarely finer
SLACK = 1.01  # of either end of the runs: budgets are counted in whole steps
NO_MORE = "the runs say no more than that it is"
TERM = "lose a term of the law"


class Verdict(NamedTuple):
    word: str
    reason: str

    @property
    def supported(self) -> bool:
        return self.word == SUPPORTED

    @property
    def told(self) -> bool:
        """Not unidentified: there is a number."""
        return self.word != UNIDENTIFIED

    def also(self, note: str) -> "Verdict":
        return self._replace(reason="; ".join(filter(None, (self.reason, note))))

    @staticmethod
    def read(record: dict[str, Any]) -> "Verdict":
        """From laws.json."""
        return Verdict(record["word"], record["reason"])


PENDING = Verdict("", "")  # of what is fitted and not judged yet


class Place(NamedTuple):
    """Where a number is asked for: the value of a quantity, and the ends of it among the runs."""

    value: float
    seen: Bounds
    what: str
    text: Callable[[float], str] = significant


def _against(bad: Any, reason: str) -> Verdict | None:
    return Verdict(UNIDENTIFIED, reason) if bad else None


def _first(*objections: Verdict | None, told: str = "") -> Verdict:
    return next((objection for objection in objections if objection), Verdict(SUPPORTED, told))


def missing(reason: str) -> Verdict:
    """Of a number that could not be computed: too few runs, a column that is not there."""
    return Verdict(UNIDENTIFIED, reason)


def doubted(judged: T, doubt: str) -> T:
    """Whatever was found, with no word `SUPPORTED` in it: each verdict of that word is doubtful, for this reason."""
    if isinstance(judged, Verdict):
        return Verdict(DOUBTFUL, doubt) if judged.supported else judged  # type: ignore[return-value]
    if is_dataclass(judged) and not isinstance(judged, type):
        parts = {f.name: getattr(judged, f.name) for f in fields(judged) if f.init}
        changed = {name: new for name, old in parts.items() if (new := doubted(old, doubt)) is not old}
        return replace(judged, **changed) if changed else judged
    if isinstance(judged, dict):
        new = {key: doubted(value, doubt) for key, value in judged.items()}
        if new.get("word") == SUPPORTED:
            new |= {"word": DOUBTFUL} | ({"reason": doubt} if "reason" in new else {})
        return new if any(new[key] is not judged[key] for key in judged) else judged  # type: ignore[return-value]
    if type(judged) in (list, tuple):
        items = [doubted(value, doubt) for value in judged]  # type: ignore[attr-defined]
        same = all(a is b for a, b in zip(items, judged, strict=True))  # type: ignore[call-overload]
        return judged if same else type(judged)(items)  # type: ignore[call-arg]
    return judged


def at(of: Verdict | None, *places: Place, slack: float = SLACK) -> Verdict:
    """Of what a law says at places: as of the law between the ends of its runs, beyond them extrapolated.

    of: of the law; None where nothing speaks against it.
    """
    of = of or Verdict(SUPPORTED, "inside the runs")
    for value, (low, high), what, text in places:
        if np.isnan(value):
            return Verdict(UNIDENTIFIED, f"{what} not known")
        if of.told and not low / slack <= value <= high * slack:
            return Verdict(EXTRAPOLATED, f"{text(value)} {what}; the runs have {text(low)} to {text(high)}")
    return of


def lost(failed: float, what: str, options: Options, low: float = 0.0) -> Verdict | None:
    """Where too many bootstrap draws fail for any interval, or have left none (`low` is NaN); else None."""
    return _against(failed > options.failed, f"{percent(failed)} of the bootstrap draws {what}") or _against(
        not np.isfinite(low), "the bootstrap draws are too few for an interval"
    )


def tied(apart: float) -> Verdict | None:
    """Where runs do not tell what N and what D buy; else None. apart: the factor that D varies by at one N, or N at one
    D, whichever is less."""
    return _against(
        not apart >= LEAST_APART,
        "N and D rise together: no two runs have one size and tokens more than a factor "
        f"{LEAST_APART:g} apart, or the other way, so what each of them buys is not told",
    )


def width(bounds: Bounds, options: Options) -> Verdict:
    """Of an exponent, by the width of its interval."""
    low, high = bounds
    return _first(_against(not high - low <= options.wide, f"interval wider than {options.wide:g}"))


def factor(bounds: Bounds) -> Verdict:
    """Of a positive number, by the ratio of the ends of its interval, which may be open (NaN or infinite)."""
    low, high = bounds
    return _first(
        _against(np.isfinite(low) and np.isinf(high), f"{NO_MORE} above {significant(low, 2)}"),
        _against(not (low > 0 and high <= WIDE * low), f"known to no better than a factor of {WIDE:g}"),
    )


def floor(low: float, lowest: float) -> Verdict:
    """Of a floor of loss, by the lower end of its interval and the lowest loss of the runs."""
    return _first(_against(not low > LEAST_FLOOR * lowest, "not told from zero"))


def parameter(name: str, bounds: Bounds, lowest: float, options: Options) -> Verdict:
    """Of a parameter of a law of loss: FACTORS by `factor`, E by `floor`, exponents by `width`."""
    if name in FACTORS:
        return factor(bounds)
    return floor(bounds[0], lowest) if name == "E" else width(bounds, options)


def joint_law(
    telling: dict[str, Bounds], floor: Verdict | None, apart: float, failed: float, options: Options
) -> Verdict:
    """Of a law of loss, from the intervals of the exponents that tell it, and the word of its floor if it has one."""
    wide = {name: bounds for name, bounds in telling.items() if not width(bounds, options).told}
    spans = ", ".join(f"{name} {span(bounds, lambda end: decimal(end, 2))}" for name, bounds in wide.items())
    too_wide = f"intervals wider than {options.wide:g}: {spans}"
    return _first(
        tied(apart),
        lost(failed, TERM, options),
        _against(wide, too_wide if np.isfinite(list(wide.values())).all() else "the draws are too few for intervals"),
        told=f"exponents within intervals narrower than {options.wide:g}"
        + ("" if floor is None or floor.supported else "; the floor E is not told from zero"),
    )


def slope(bounds: Bounds, apart: float, budgets: int, failed: float, options: Options) -> Verdict:
    """Of a or b of a joint law: slopes of N* and D* through the `budgets` whose best size is among those run."""
    few = "by the law, under two budgets have their best size among those run"
    return tied(apart) or _against(budgets < 2, few) or lost(failed, TERM, options) or width(bounds, options)


def profile(name: str, bounds: Bounds, where: Verdict, options: Options) -> Verdict:
    """Of a profile: its ends, NaN where open, and the word for where it is (`at`)."""
    low, high = bounds
    open_low, open_high = np.isnan(bounds)
    side = f"below {significant(high, 2)}" if open_low else f"above {significant(low, 2)}"
    narrow = None if name in UNBOUNDED else factor(bounds) if name in FACTORS else width(bounds, options)
    beyond = "closed on both sides, beyond the runs: noise alone, not what the law gets wrong"
    return _first(
        _against(open_low and open_high, "no value in reach fits clearly worse, on either side"),
        _against(open_low or open_high, f"{NO_MORE} {side}"),
        narrow if narrow and not narrow.told else None,
        where._replace(reason=beyond) if not where.supported else None,
        told="fits clearly worse on both sides",
    )


def budget(reason: str, *, bracketed: bool, thin: bool, failed: float, options: Options) -> Verdict:
    """Of N*, D* and L* of one budget. reason: why its optimum is bracketed, or not.

    thin: with one run of freedom those are called bracketed whose noise looks small by chance.
    """
    return _first(
        _against(not bracketed, reason),
        _against(thin, "four sizes in the window leave too little to judge their noise by: run five"),
        lost(failed, "put the vertex outside the grid", options),
        told=reason,
    )


def exponent(bounds: Bounds, failed: float, points: int, options: Options) -> Verdict:
    """Of the exponent of a line through the optima of so many bracketed budgets."""
    low, high = bounds
    wide = f"the {percent(options.level)} interval is {high - low:.2f} wide, more than {options.wide:g}"
    return _first(
        _against(points < 2, f"{points} of the budgets are bracketed and a line needs two, better three"),
        lost(failed, "lose the vertices of the bracketed budgets", options, low),
        _against(high - low > options.wide, wide),
        _against(points == 2, "two budgets give a line but nothing to check it against"),
        told=f"{points} bracketed budgets, interval {high - low:.2f} wide",
    )


def shapes(of: Verdict, *, budgets: int, misfits: int, bracketed: int, thin: int, options: Options) -> Verdict:
    """Of a line again, seen how many of all budgets contradict their curve, and how many of the bracketed are thin."""
    misfit = f"at {misfits} of {budgets} budgets no parabola fits the runs in its window: take a narrower one"
    few = f"{thin} of {bracketed} bracketed budgets have four sizes in their window, which leaves too little to judge "
    return (
        _against(misfits > options.misfits * budgets, misfit)
        or _against(2 * thin > bracketed, few + "their noise by: run five")
        or of
    )


def window(
    of: Verdict, value: float, bounds: Bounds, other: float, others: Bounds, *, named: str, wider: bool
) -> Verdict:
    """Of an exponent again, seen what another window gives: `other`, its interval. wider: it sees more runs."""
    apart = _outside(other, bounds) and (wider or _outside(value, others))
    there = f"{decimal(other)} ({span(others)}) with {named}"
    reason = f"the exponent depends on the window: {decimal(value)} ({span(bounds)}), but {there}"
    return (_against(apart, reason) if of.supported else None) or of


def repeats(ignored: bool, gain: float, said: str, failed: float, options: Options) -> Verdict:
    """Of a law of repeated data. ignored: the law that counts every token as new forecasts held-out runs best.
    gain: the lower end of what the law gains over that one."""
    return _first(
        lost(failed, TERM, options),
        _against(ignored, "no law of repeats forecasts held-out runs better than the one that ignores them"),
        _against(not gain > 0, f"{said}, a difference that is not told from zero"),
        told=said,
    )


def worth(of: Verdict, passes: float, bounds: Bounds, where: Verdict) -> Verdict:
    """Of the unique tokens that so many passes are worth, by the word of the law and of the place (`at`)."""
    if passes <= 1:
        return Verdict(SUPPORTED, "nothing is repeated")
    return _against(not of.told, of.reason) or _drawn(bounds) or where


def turn(draws: Verdict | None, bounds: Bounds, better: bool, chosen: str, where: Verdict) -> Verdict:
    """Of the passes after which more cost loss. draws: of `lost`; better: it forecasts held-out runs better than none;
    chosen: the name of a law that does so better still, else empty."""
    return (
        draws
        or _drawn(bounds)
        or _against(not better, "held-out runs do not tell the penalty from none")
        or _against(chosen, f"the {chosen} law, which forecasts held-out runs better, has no such number")
        or where
    )


def _drawn(bounds: Bounds) -> Verdict | None:
    verdict = factor(bounds)
    return (
        _against(np.isnan(bounds[0]), "fewer than 20 bootstrap draws, so no interval")
        or _against(np.isinf(bounds[0]), "loss falls with every further pass")
        or (None if verdict.told else verdict)
    )


def sealed(off: float, inside: float, why: str) -> Verdict:
    """Of forecasts beyond the data, by a sealed budget: mean |error| of its losses, and the share of them inside their
    intervals; NaN where none was forecast, and why."""
    accuracy = f"{percent(off, 1)} off on average, {percent(inside)} of its runs inside their intervals"
    if np.isnan(off):
        return Verdict(EXTRAPOLATED, "no sealed budget was forecast" + (f": {why}" if why else ""))
    return _first(
        _against(inside < LEAST_INSIDE or off > MOST_OFF, f"the forecast of the sealed budget failed: {accuracy}"),
        told=f"the sealed budget came out as forecast: {accuracy}",
    )


def follows(
    bounds: Bounds, what: str, *, inverted: str, told: str, off: float = 0.0, constant: float = np.inf
) -> Verdict:
    """Of one score as a curve of another, by the interval of its rise. off, constant: errors that the curve, and a
    constant in its place, make of what was left out. inverted: what a fall would mean."""
    low, high = bounds
    return _first(
        _against(not (low > 0 or high < 0), f"no dependence told from none: {what}"),
        _against(
            off >= constant,
            f"a constant predicts left-out models as well (error {decimal(constant)} and {decimal(off)}): {what}",
        ),
        _against(high < 0, f"inverted, {inverted}: {what}"),
        told=told,
    )


def above_chance(of: Verdict, auroc: float, bounds: Bounds) -> Verdict:
    """Of AUROC as a curve of loss again, by its interval at the lowest loss seen."""
    near = f"AUROC {decimal(auroc)} ({span(bounds)}) at the lowest loss seen: hardly told from chance"
    return (_against(not bounds[0] > CHANCE, near) if of.supported else None) or of


def plan(
    C: float, top: float, places: dict[str, tuple[float, Bounds]], passes: tuple[float, float], line: Bounds | None,
    missed: float, *, repeats: bool, anew: bool,
) -> Verdict:  # fmt: skip
    """Of the loss that a plan reaches.

    top: largest compute of the runs. places: N and D with the ends of the runs. passes: of the plan, and the most of
    the runs, NaN where they do not say. line: first and last bracketed budget; None without a line. missed: mean error
    of the sealed forecast where it failed, else NaN. repeats: a law tells what passes cost. anew: the plan has other
    tokens, where runs of its length saw theirs again.
    """
    beyond = [] if top * SLACK >= C else [f"compute {significant(C / top, 2)} times the largest run's"]
    for name, (value, (low, high)) in places.items():
        if not low / SLACK <= value <= high * SLACK:
            beyond.append(f"{name} outside {count(low)} to {count(high)} of the runs")
    planned, most = passes
    if planned > most * SLACK:
        beyond.append(f"{significant(planned, 2)} passes, more than the {significant(most, 2)} of the runs")
    if planned > SLACK and not repeats and np.isnan(most):
        beyond.append("the runs do not say how often they saw their data")
    if anew and not repeats:
        beyond.append("runs of this length saw their data again, and nothing tells what new tokens would do")
    if line is None:
        beyond.append("no line through bracketed budgets tells the best size")
    elif top * SLACK >= C and not line[0] / SLACK <= C <= line[1] * SLACK:
        beyond.append(f"budgets are bracketed from {power(line[0])} to {power(line[1])} FLOPs only")
    if np.isfinite(missed):
        beyond.append(f"the forecast of the sealed budget failed, {percent(missed, 1)} off on average")
    if not beyond:
        return Verdict(SUPPORTED, "inside the runs")
    if not repeats and np.isfinite(most) and most > 1:
        again = f"the runs saw their data up to {significant(most, 2)} times, and no law tells what that costs: "
        beyond.append(again + "more compute may gain less")
    return Verdict(EXTRAPOLATED, "; ".join(beyond))


def plan_size(of: Verdict, bounds: Bounds) -> Verdict:
    """Of the size of a plan, by its interval and the word of its loss."""
    verdict = factor(bounds)
    return of if verdict.told else verdict


def paired(cells: int, equal: str, told: str) -> Verdict:
    """Of the difference between two tables at so many cells of equal N and D, or C."""
    few = f"{plural(cells, 'cell')} of A at equal {equal}; at least {LEAST_CELLS} are needed"
    return _first(_against(cells < LEAST_CELLS, few), told=told)


def multiplier(bounds: Bounds, failed: float, told: str, options: Options) -> Verdict:
    """Of the factor of compute between two tables, by its interval and the share of draws that lose it."""
    verdict = factor(bounds)
    objection = lost(failed, "do not reach the loss", options, bounds[0])
    return _first(objection, None if verdict.told else verdict, told=told)


def shift(bounds: Bounds, failed: float, options: Options) -> Verdict:
    """Of how far the best learning rate moves between sizes, in factors of two: stays put or moves, for supported."""
    low, high = bounds
    if objection := lost(failed, "lose an optimum", options, low):
        return objection
    if low >= -NEAR and high <= NEAR:
        return Verdict(STAYS, f"the interval lies within {NEAR:g} factor of two on either side")
    if _outside(0.0, bounds):
        return Verdict(MOVES, "the interval leaves out 0")
    return Verdict(UNIDENTIFIED, f"the interval is {high - low:.1f} factors of two wide and holds 0")


def difference(bounds: Bounds, what: str) -> Verdict:
    """Of two ways to one loss: within seed noise or differs, for supported. NaN where no seeds tell the noise."""
    if np.isnan(bounds[0]):
        return Verdict(UNIDENTIFIED, f"no seeds tell the noise of {what}")
    if _outside(0.0, bounds):
        return Verdict(DIFFERS, f"{what} is told from 0")
    return Verdict(AGREES, f"{what} is not told from 0")


def _outside(value: float, bounds: Bounds) -> bool:
    return value < bounds[0] or bounds[1] < value
