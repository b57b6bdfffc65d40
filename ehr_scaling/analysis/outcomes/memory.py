"""How much models remember, of their size, how often they read a patient, and of how many they read.

An excess of continuations is a power law of the three, with a factor that may be 0: a model that remembers nothing has
one of 0, give or take the noise of its patients. An AUROC is Φ(d' / √2), the area of two normals that lie d' apart, and
d' is such a power law, so that the AUROC goes from 1/2 to 1 and no further.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, multipliers, normal_quantile
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes.audits import LOSS, RATIO, UNSHARED, Audit
from ehr_scaling.analysis.outcomes.scores import Measure
from ehr_scaling.analysis.wording import count, decimal, percent, plural, signed, significant, span
from ehr_scaling.analysis.words import PENDING, Place, Verdict

FACTORS = ("N", "times", "patients")
AREAS = (LOSS, RATIO)  # measures that are AUROCs
FITTED = (RATIO, LOSS, UNSHARED)
LEAST_CELLS = 5
VARIES = 1.5  # factor between the ends of N, times or patients, under which it is none of the law
STEEPEST = 4.0  # exponent
STEPS = 25  # of least squares
KEPT = 200  # draws in laws.json


@dataclass(frozen=True)
class Law:
    """A Π (x / centre)^e over those of FACTORS that vary, or Φ of it over √2, fitted to n models.

    theta: [1 + k] A and the exponents of `names`. draws: [draws, 1 + k]. centre: of each of `names`. seen: the ends of
    each of FACTORS. error, constant: root mean square error on left-out cells, of the law and of a constant.
    """

    measure: str
    names: tuple[str, ...]
    theta: Floats
    draws: Floats
    centre: Floats
    seen: dict[str, tuple[float, float]]
    models: int
    error: float
    constant: float
    level: float
    verdict: Verdict

    def __call__(self, N: float, times: float, patients: float) -> tuple[float, tuple[float, float]]:
        """The measure, and the interval of its expectation."""
        x = self._logs(N, times, patients)[None]
        values = np.clip(_at(self.measure, np.vstack([self.theta, self.draws]), x)[:, 0], -1.0, 1.0)
        return float(values[0]), interval(values[1:], self.level)

    def word(self, N: float, times: float, patients: float) -> Verdict:
        """Of the measure there: as of the law between the ends of its runs."""
        what = {"N": "body parameters", "times": "times that a patient is read", "patients": "patients"}
        point = dict(zip(FACTORS, (N, times, patients), strict=True))
        places = [Place(point[n], self.seen[n], what[n], significant if n == "times" else count) for n in FACTORS]
        return words.at(self.verdict, *places)

    def _logs(self, *of: float) -> Floats:
        values = dict(zip(FACTORS, of, strict=True))
        return np.log([values[name] for name in self.names]) - np.log(self.centre)

    @property
    def exponents(self) -> dict[str, tuple[float, tuple[float, float]]]:
        return {
            name: (float(self.theta[1 + k]), interval(self.draws[:, 1 + k], self.level))
            for k, name in enumerate(self.names)
        }


def fit_all(audits: list[Audit], options: Options) -> dict[str, Law]:
    """The law of each measure of FITTED that enough models have; that of RATIO from those with a fair reference.

    Models that started from another are left out: how many patients are behind their weights is not known.
    """
    laws = {}
    known = [a for a in audits if np.isfinite(a.patients) and not a.started]
    for measure in FITTED:
        has = [a for a in known if measure in a.measures and (measure != RATIO or a.fair)]
        if law := fit(measure, has, options):
            laws[measure] = law
    return laws


def fit(measure: str, audits: list[Audit], options: Options) -> Law | None:
    """Weighted least squares; None with fewer than LEAST_CELLS cells, or than parameters and two, and where none of
    FACTORS varies.

    Models of the same N, D and fraction, which differ in seed, are one cell: they are left out together, and share the
    noise of a draw. What the held-out patients do is common to all models, which are judged on the same: a draw moves
    each model by one multiple of its own standard error, and by noise of its own of the variance that models have about
    the law, by Student's t.
    """
    if len(audits) < LEAST_CELLS:
        return None
    table = np.array([[a.N, a.times, a.patients] for a in audits])
    y, error = np.array([_told(a.measures[measure]) for a in audits]).T
    # Not by the times read and the patients, which differ by seed where a part of a pass is read
    _, cells = np.unique([[a.N, a.D, a.fraction] for a in audits], axis=0, return_inverse=True)
    cells = cells.reshape(-1).astype(np.int64)
    names, x = _design(np.log(table))
    distinct = int(cells.max()) + 1
    if not names or distinct < max(LEAST_CELLS, x.shape[1] + 3):
        return None
    weight = 1 / np.maximum(error, np.median(error) / 2) ** 2
    theta = _best(measure, x, y, weight)
    freedom = max(distinct - len(theta), 1)
    scale = np.sqrt((weight * (y - _at(measure, theta[None], x)[0]) ** 2).sum() / max(len(y) - len(theta), 1))
    rng = np.random.default_rng([options.seed, 7])
    factors = multipliers(cells, options.draws, rng) * np.sqrt(freedom / rng.chisquare(freedom, (options.draws, 1)))
    noisy = y + scale * factors / np.sqrt(weight) + rng.standard_normal((options.draws, 1)) * error
    start = np.tile(theta, (options.draws, 1))
    draws = _solve(measure, x, noisy, np.broadcast_to(weight, noisy.shape), start)
    off, constant = _left_out(measure, x, y, weight, cells)
    law = Law(
        measure=measure,
        names=names,
        theta=theta,
        draws=draws,
        centre=np.exp(np.log(table).mean(0))[[FACTORS.index(name) for name in names]],
        seen={name: (float(table[:, k].min()), float(table[:, k].max())) for k, name in enumerate(FACTORS)},
        models=len(audits),
        error=off,
        constant=constant,
        level=options.level,
        verdict=PENDING,
    )
    return _judged(law, table)


def _judged(law: Law, table: Floats) -> Law:
    """By its rise from the model of fewest parameters and readings a patient to that of most."""
    exposure = np.log(table) @ np.array([1.0, 1.0, -1.0])
    x = np.stack([law._logs(*table[k]) for k in (exposure.argmin(), exposure.argmax())])
    values = _at(law.measure, np.vstack([law.theta, law.draws]), x)
    rise = values[:, 1] - values[:, 0]
    bounds = interval(rise[1:], law.level)
    text = (
        f"{signed(float(rise[0]), 3)} from the least to the most exposed model ({percent(law.level)}: {span(bounds)})"
    )
    told = f"{text}; {plural(law.models, 'model')}, left-out ones predicted to {decimal(law.error)}"
    inverted = "the more exposed a model, the less it remembers"
    verdict = words.follows(bounds, text, inverted=inverted, told=told, off=law.error, constant=law.constant)
    return replace(law, verdict=verdict)


def _told(m: Measure) -> tuple[float, float]:
    """The measure, where it is not told the middle of what it may be, and its standard error by its interval."""
    value = m.value if np.isfinite(m.value) else (m.low + m.high) / 2
    return value, max((m.high - m.low) / 2 / normal_quantile(0.95), 1e-6)


def _design(logs: Floats) -> tuple[tuple[str, ...], Floats]:
    """Those of FACTORS that vary, and not in step with others, and their centred logarithms [n, k]."""
    centred, kept = logs - logs.mean(0), np.zeros((len(logs), 0))
    names: list[str] = []
    for k, name in enumerate(FACTORS):
        more = np.column_stack([kept, centred[:, k]])
        apart = centred[:, k] - kept @ np.linalg.lstsq(kept, centred[:, k], rcond=None)[0] if names else centred[:, k]
        if np.ptp(logs[:, k]) > np.log(VARIES) and np.ptp(apart) > np.log(VARIES):
            names, kept = [*names, name], more
    return tuple(names), kept


def _at(measure: str, theta: Floats, x: Floats) -> Floats:
    """[b, 1 + k], [n, k] -> [b, n]"""
    power = theta[:, :1] * np.exp(theta[:, 1:] @ x.T)
    return np.asarray(special.ndtr(power / np.sqrt(2)) if measure in AREAS else power)


def _slopes(measure: str, theta: Floats, x: Floats) -> Floats:
    """[b, n, 1 + k] of `_at` in theta."""
    shape = np.exp(theta[:, 1:] @ x.T)
    power = theta[:, :1] * shape
    slopes = np.concatenate([shape[..., None], power[..., None] * x], axis=2)
    if measure in AREAS:
        slopes *= (np.exp(-(power**2) / 4) / np.sqrt(4 * np.pi))[..., None]  # the normal density at power / √2, over √2
    return np.asarray(slopes)


def _best(measure: str, x: Floats, y: Floats, weight: Floats) -> Floats:
    """From several starts, each with a factor that suits its exponents."""
    grid = np.array(np.meshgrid(*[(-0.7, 0.0, 0.7)] * x.shape[1])).reshape(x.shape[1], -1).T
    shapes = np.exp(grid @ x.T)
    to = np.sqrt(2) * special.ndtri(np.clip(y, 0.001, 0.999)) if measure in AREAS else y
    factor = (shapes * weight * to).sum(1) / (shapes**2 * weight).sum(1)
    starts = np.column_stack([factor, grid])
    every = np.broadcast_to(y, (len(starts), len(y))), np.broadcast_to(weight, (len(starts), len(y)))
    solved = _solve(measure, x, *every, starts)
    return np.asarray(solved[np.argmin((weight * (y - _at(measure, solved, x)) ** 2).sum(1))])


def _solve(measure: str, x: Floats, y: Floats, weight: Floats, start: Floats) -> Floats:
    """Levenberg and Marquardt's least squares of many problems at once. y, weight: [b, n]; start: [b, 1 + k]."""
    theta, damping = np.array(start, np.float64), np.full(len(start), 1e-2)

    def error(at: Floats) -> Floats:
        return np.asarray((weight * (y - _at(measure, at, x)) ** 2).sum(1))

    now = error(theta)
    for _ in range(STEPS):
        slopes = _slopes(measure, theta, x)
        weighted = slopes * weight[..., None]
        normal = weighted.transpose(0, 2, 1) @ slopes
        diagonal = np.einsum("bpp->bp", normal)
        floor = 1e-9 * diagonal.max(1, keepdims=True) + 1e-12  # an exponent of nothing has no slope
        normal += np.eye(theta.shape[1]) * (damping[:, None] * diagonal + floor)[:, None]
        right = np.einsum("bnp,bn->bp", weighted, y - _at(measure, theta, x))
        new = theta + np.linalg.solve(normal, right[..., None])[..., 0]
        new[:, 1:] = np.clip(new[:, 1:], -STEEPEST, STEEPEST)
        then = error(new)
        better = then <= now
        theta[better], now[better] = new[better], then[better]
        damping = np.clip(np.where(better, damping / 4, damping * 5), 1e-9, 1e9)
    return theta


def _left_out(measure: str, x: Floats, y: Floats, weight: Floats, cells: NDArray[np.int64]) -> tuple[float, float]:
    """Root mean square error over models that are left out with their cell, of the law and of a constant."""
    distinct = np.arange(int(cells.max()) + 1)
    weights = weight * (cells != distinct[:, None])
    seen = np.broadcast_to(y, weights.shape)
    start = np.tile(_best(measure, x, y, weight), (len(distinct), 1))
    predicted = _at(measure, _solve(measure, x, seen, weights, start), x)[cells, np.arange(len(y))]
    constant = ((weights * seen).sum(1) / weights.sum(1))[cells]
    return float(np.sqrt(((predicted - y) ** 2).mean())), float(np.sqrt(((constant - y) ** 2).mean()))


def to_json(audits: list[Audit], laws: Mapping[str, Law]) -> dict[str, Any] | None:
    """Of laws.json; None where no model was audited."""
    if not audits:
        return None
    return {
        "models": [
            {
                **{k: v for k, v in a._asdict().items() if k != "measures"},
                "measures": {name: {"value": m.value, "interval": [m.low, m.high]} for name, m in a.measures.items()},
            }
            for a in audits
        ],
        "laws": {name: _law_to_json(law) for name, law in laws.items()},
    }


def _law_to_json(law: Law) -> dict[str, Any]:
    return {
        "factor": float(law.theta[0]),
        "exponents": {name: {"value": v, "interval": list(ends)} for name, (v, ends) in law.exponents.items()},
        "centre": dict(zip(law.names, law.centre.tolist(), strict=True)),
        "seen": {name: list(ends) for name, ends in law.seen.items()},
        "draws": law.draws[:KEPT].tolist(),
        "models": law.models,
        "error": law.error,
        "constant_error": law.constant,
        "level": law.level,
        **law.verdict._asdict(),
    }


def from_json(measure: str, record: Mapping[str, Any]) -> Law:
    """What `to_json` wrote, with the draws that are kept."""
    names = tuple(record["exponents"])
    return Law(
        measure=measure,
        names=names,
        theta=np.array([record["factor"], *(record["exponents"][name]["value"] for name in names)]),
        draws=np.array(record["draws"]),
        centre=np.array([record["centre"][name] for name in names]),
        seen={name: (ends[0], ends[1]) for name, ends in record["seen"].items()},
        models=record["models"],
        error=record["error"],
        constant=record["constant_error"],
        level=record["level"],
        verdict=Verdict.read(dict(record)),
    )


def sentence(laws: Mapping[str, Law], N: float, passes: float, patients: float) -> str:
    """What a model of this size remembers of so many patients, by the attack that tells more; "" where no law does."""
    law = next((laws[name] for name in (RATIO, LOSS) if name in laws and laws[name].verdict.told), None)
    if law is None or not np.isfinite(N * passes * patients):
        return ""
    times = max(passes, 1.0)  # of a part of the patients, each once
    value, bounds = law(N, times, patients * min(passes, 1.0))
    word = law.word(N, times, patients * min(passes, 1.0)).word
    often = f"{significant(passes, 3)} {'pass' if passes == 1 else 'passes'}"
    return (
        f"with {count(patients)} patients and {often} a model of {count(N)} body parameters: membership AUROC "
        f"{decimal(value)} ({percent(law.level)}: {span(bounds)}), {word}"
    )
