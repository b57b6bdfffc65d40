"""Do 95 % intervals hold the truth 95 times in a hundred? On simulated runs of a known law, refitted many times.

Beside each design stands the standard error of a share. Rows of one design rest on the same tables, so that what is
said of a parameter by bootstrap and by profile, and of a factor and its exponent, misses by chance together.
"""

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from ehr_scaling.analysis.compare import comparison
from ehr_scaling.analysis.draws import Floats, ends
from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.isoflop import isoflop, power_laws, windows
from ehr_scaling.analysis.joint import identifiability, joint_laws
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import outcome_curve
from ehr_scaling.analysis.outcomes.downstream import Outcome
from ehr_scaling.analysis.plan import plan_basis, planner
from ehr_scaling.analysis.report.results import budget_verdict
from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import RunTable, from_columns, from_rows
from ehr_scaling.analysis.words import EXTRAPOLATED, SUPPORTED

from .flags import REPLICATES
from .rows import Row, row, seconds

OPTIONS = Options(draws=400)
LEAST, MOST = 90.0, 98.0  # percent of 200 tables: two standard errors and more about 95
TRUTH = {"E": 1.0, "A": 62.6, "B": 219.0, "alpha": 0.34, "beta": 0.34, "a": 0.5}
NOISE = 0.005
NOISES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n),
}
BUDGETS = np.geomspace(1e11, 10**13.5, 8)
TUNED = 3e5  # parameters, below which mistuned studies are off
PATIENTS, MODELS = 0.006, 0.005  # standard deviations of AUROC: what all models share, and each model's own


@dataclass(frozen=True)
class Study:
    """An IsoFLOP study whose log losses are moved by `noise` of every run, `apart` of every size, `shared` of every
    seed and `of_budget` of every seed in a budget (standard deviations), and `mistuned` times the square of the decades
    that the size is below TUNED."""

    label: str
    budgets: int = 6
    sizes: int = 6
    seeds: int = 2
    noise: float = 0.005
    apart: float = 0.0
    shared: float = 0.0
    of_budget: float = 0.0
    mistuned: float = 0.0

    def loss(self, N: Floats, D: Floats) -> Floats:
        return np.asarray(loss(N, D) * np.exp(self.mistuned * np.maximum(np.log10(TUNED / N), 0) ** 2))

    def best(self, C: float) -> float:
        """N* at C = 6 N D, by search."""
        N = optimum(np.array(C)) * np.geomspace(0.1, 10, 4001)
        return float(N[self.loss(N, C / (6 * N)).argmin()])

    def at(self, N: float, C: float) -> float:
        """Loss at C = 6 N D."""
        return float(self.loss(np.array(N), np.array(C / (6 * N))))

    def table(self, rng: np.random.Generator) -> RunTable:
        shape = (self.budgets, self.sizes, self.seeds)
        C = np.geomspace(BUDGETS[0], BUDGETS[-1], self.budgets)[:, None]
        steps = np.arange(self.sizes) - (self.sizes - 1) / 2 + rng.uniform(-0.5, 0.5, (self.budgets, 1))
        N = np.array([[self.best(float(c))] for c in C[:, 0]]) * 1.9**steps
        moved = self.noise * rng.standard_normal(shape) + self.apart * rng.standard_normal((*shape[:2], 1))
        moved += self.shared * rng.standard_normal(self.seeds)
        moved += self.of_budget * rng.standard_normal((self.budgets, 1, self.seeds))
        columns = {
            "N": np.broadcast_to(N[..., None], shape),
            "C": np.broadcast_to(C[..., None], shape),
            "loss": self.loss(N, C / (6 * N))[..., None] * np.exp(moved),
            "seed": np.broadcast_to(np.arange(self.seeds), shape),
        }
        columns["D"] = columns["C"] / (6 * columns["N"])
        columns["budget"] = columns["C"]
        return from_columns({name: values.ravel() for name, values in columns.items()}, source="made up")


STUDIES = (
    Study("noise of runs alone"),
    Study("one seed", seeds=1),
    Study("sizes apart beyond seeds", noise=0.002, apart=0.004),
    Study("seeds share an effect", noise=0.003, shared=0.003),
    Study("seeds share one in a budget", noise=0.003, of_budget=0.003),
    Study("three budgets of five sizes", budgets=3, sizes=5),
    Study("four budgets of four sizes, one seed", budgets=4, sizes=4, seeds=1, noise=0.002),
    Study("small models mistuned", noise=0.003, mistuned=0.03),
)


def loss(N: Floats, D: Floats) -> Floats:
    return TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] + TRUTH["B"] * D ** -TRUTH["beta"]


def optimum(C: Floats) -> Floats:
    """N* at C = 6 N D, for alpha = beta."""
    return (TRUTH["A"] / TRUTH["B"]) ** (0.5 / TRUTH["alpha"]) * (C / 6) ** 0.5


def table(noise: Floats, sizes: int, seeds: int) -> RunTable:
    """Sizes a factor 1.9 apart about the optimum of every budget. noise: [budgets * sizes * seeds], in NOISE."""
    steps = 1.9 ** (np.arange(sizes) - (sizes - 1) / 2)
    C = np.repeat(BUDGETS, sizes * seeds)
    N = np.repeat((optimum(BUDGETS)[:, None] * steps).ravel(), seeds)
    D = C / (6 * N)
    reached = loss(N, D) * np.exp(NOISE * noise)
    columns = zip(N, D, C, reached, strict=True)
    return from_rows([dict(zip(("N", "D", "C", "loss"), values, strict=True)) for values in columns], source="made up")


def rows() -> Iterator[Row]:
    runs = table(np.random.default_rng(0).standard_normal(len(BUDGETS) * 30), 6, 5)
    law = joint_laws.fit("chinchilla", runs.N, runs.D, runs.loss, runs.clusters, OPTIONS)
    assert law is not None
    taken = seconds(lambda: identifiability.identify(law, runs, tuple(BUDGETS[-2:]), OPTIONS))
    yield row(f"profiles of 14 quantities, {len(runs)} runs", taken, "s", 2.0, False)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for sizes, seeds in ((6, 2), (5, 1)):
            for kind in NOISES:
                yield from _grid(kind, sizes, seeds, pool)
        for k in range(len(STUDIES)):
            yield from _study(k, pool)


def auroc(loss: Floats) -> Floats:
    return np.asarray(0.5 + 0.42 / (1 + np.exp(1.5 * (loss - 3.5))))


def _study(number: int, pool: Executor) -> Iterator[Row]:
    """Of what is called supported, beside how often that is; what is extrapolated without a target."""
    held: dict[tuple[str, str], list[float]] = defaultdict(list)
    for verdicts in pool.map(judge, repeat(number), range(REPLICATES.value)):
        for name, (word, value) in verdicts.items():
            held[name, word].append(value)
    for (name, word), values in held.items():
        label = f"{STUDIES[number].label}: {name} ({word} in {100 * len(values) / REPLICATES.value:.0f} %)"
        if word == SUPPORTED:
            yield _share(label, 100 * float(np.mean(values)))
        elif word == EXTRAPOLATED:
            yield row(label, 100 * float(np.mean(values)), "%")


def judge(number: int, replicate: int) -> dict[str, tuple[str, float]]:
    """The word for each number of one simulated study, and whether its interval holds the truth, 0 or 1; of budgets
    the share of those that are supported."""
    study, options, rng = STUDIES[number], replace(OPTIONS, seed=replicate), np.random.default_rng([number, replicate])
    runs, others = study.table(rng), study.table(rng)
    budgets = isoflop.fit(runs, options)
    line = windows.lines(runs, budgets, options)["N"]
    equal = comparison.multiplier(runs, others, options)
    verdicts = {
        "a of the IsoFLOP line": (line.verdict.word, _holds(line.interval, TRUTH["a"])),
        "multiplier of equals": (equal.verdict.word, _holds(equal.interval, 1.0)),
    }
    if study.mistuned:
        del verdicts["a of the IsoFLOP line"]  # there is no one exponent
    if used := [b for b in budgets if budget_verdict(b, options).word == SUPPORTED]:
        best = [study.best(float(b.C)) for b in used]
        lowest = [study.at(N, float(b.C)) for b, N in zip(used, best, strict=True)]
        sizes = [_holds(b.N_interval, N) for b, N in zip(used, best, strict=True)]
        losses = [_holds(b.L_interval, L) for b, L in zip(used, lowest, strict=True)]
        verdicts["N* of a budget"] = SUPPORTED, float(np.mean(sizes))
        verdicts["L* of a budget"] = SUPPORTED, float(np.mean(losses))
    return verdicts | _plans(study, runs, rng, options)


def _plans(study: Study, runs: RunTable, rng: np.random.Generator, options: Options) -> dict[str, tuple[str, float]]:
    """Of plans between budgets, at the largest and at ten times it: size, loss of the size and AUROC of a model of it,
    whose patients are those of the study."""
    law = extrapolation.forecaster(runs, options)
    if law is None:
        return {}
    scored = runs.take(runs.seed == 0)
    shared = PATIENTS * rng.standard_normal()
    seen = auroc(scored.loss) + shared + MODELS * rng.standard_normal(len(scored))
    patients = PATIENTS * (
        rng.standard_normal((options.draws, 1)) + 0.1 * rng.standard_normal((options.draws, len(scored)))
    )
    each = np.arange(len(scored))
    curve = outcome_curve.fit(scored.loss, seen, patients, each, each, options)
    assert curve is not None
    outcome = Outcome("death", "", [], None, np.nan, (np.nan, np.nan), curve=curve, verdict=curve.verdict)
    known = plan_basis.planner(law, runs, [outcome])
    verdicts: dict[str, tuple[str, float]] = {}
    middle, top = float(np.sqrt(BUDGETS[3] * BUDGETS[4])), float(BUDGETS[-1])
    for where, C in (("between budgets", middle), ("at the top", top), ("10 times on", 10 * top)):
        plan = planner.plan(known, C, np.inf, np.inf)
        words = {name: "refused" if plan.refused else verdict.word for name, verdict in plan.words.items()}
        reached = study.at(plan.N, C)
        verdicts[f"N of a plan {where}"] = words["N"], _holds(plan.N_interval, study.best(C))
        verdicts[f"loss of a plan {where}"] = words["loss"], _holds(plan.loss_interval, reached)
        for scores in plan.outcomes.values():
            model = float(auroc(np.array(reached))) + MODELS * rng.standard_normal()
            word = "refused" if plan.refused else scores["word"]
            verdicts[f"AUROC of a plan {where}"] = word, _holds(scores["interval"], model)
    return verdicts


def _grid(kind: str, sizes: int, seeds: int, pool: Executor) -> Iterator[Row]:
    rng = np.random.default_rng([sizes, seeds, list(NOISES).index(kind)])
    tables = (table(NOISES[kind](rng, len(BUDGETS) * sizes * seeds), sizes, seeds) for _ in range(REPLICATES.value))
    held: dict[str, list[float]] = defaultdict(list)
    for coverage in pool.map(covered, tables, range(REPLICATES.value)):
        for name, value in coverage.items():
            held[name].append(value)
    chance = 100 * float(np.sqrt(0.95 * 0.05 / REPLICATES.value))
    label = f"{len(BUDGETS)} budgets × {sizes} sizes × {seeds}, {kind} (± {chance:.1f})"
    for name, values in held.items():
        yield _share(f"{label}: {name}", 100 * float(np.mean(values)))


def covered(runs: RunTable, replicate: int) -> dict[str, float]:
    """Whether each interval holds the truth, 0 or 1; of predictions, the share that do."""
    options = replace(OPTIONS, seed=replicate)
    runs, raw = cells.average(runs), runs
    law = joint_laws.fit("chinchilla", runs.N, runs.D, runs.loss, runs.clusters, options)
    assert law is not None
    middle, top = float(np.sqrt(BUDGETS[3] * BUDGETS[4])), float(BUDGETS[-1])
    identified = identifiability.identify(law, runs, (middle, top), options)
    profiles: dict[str, tuple[identifiability.Profile, float]] = {n: (identified.of(n), v) for n, v in TRUTH.items()}
    for where, C in (("middle", middle), ("largest budget", top)):
        N = float(optimum(np.array(C)))
        profiles[f"N* at the {where}"] = (identified.of("N", C), N)
        profiles[f"L* at the {where}"] = (identified.of("L", C), float(loss(np.array(N), np.array(C / (6 * N)))))
    shares = {f"bootstrap, {name}": _holds(p.bootstrap, truth) for name, (p, truth) in profiles.items()}
    shares |= {f"profile, {name}": _holds(p.interval, truth) for name, (p, truth) in profiles.items()}
    between = np.sqrt(BUDGETS[1:] * BUDGETS[:-1])
    places = {"loss at the runs": (runs.N, runs.C), "loss between budgets": (optimum(between), between)}
    for name, (sizes, flops) in places.items():
        expected, drawn = loss(sizes, flops / (6 * sizes)), law.sample(sizes, flops / (6 * sizes))
        low, high = ends(drawn, options.level)
        shares[f"bootstrap, {name}"] = float(np.mean((low <= expected) & (expected <= high)))
    budgets = isoflop.fit(raw, options)
    lines = power_laws.fit(budgets, options)
    shares["IsoFLOP, a"] = _holds(lines["N"].interval, TRUTH["a"])
    at = [_holds(b.N_interval, float(optimum(np.array(b.C)))) for b in budgets if np.isfinite(b.N)]
    return shares | ({"IsoFLOP, N* of a budget": float(np.mean(at))} if at else {})


def _holds(bounds: tuple[float, float], truth: float) -> float:
    """An open end holds everything on its side; an interval open on both sides is none."""
    low, high = bounds
    return float(not (np.isnan(low) and np.isnan(high)) and not truth < low and not truth > high)


def _share(name: str, percent: float) -> Row:
    return {**row(name, percent, "%"), "target": LEAST, "ok": LEAST <= percent <= MOST}
