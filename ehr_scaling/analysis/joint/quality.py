"""Which runs of a table are doubtful, and why. They stay in the fits; the report lists each with its code."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables import selection
from ehr_scaling.analysis.tables.raw_columns import heaps, impossible
from ehr_scaling.analysis.tables.run_table import OPTIONAL, REQUIRED, TEXT, Floats, Note, RunTable
from ehr_scaling.analysis.wording import percent, power, significant
from ehr_scaling.errors import UserError

CODES = {
    "duplicate": "A row that comes twice, or a run id that rows of other settings share.",
    "off_budget": "The counted compute is not that of the other runs of the budget it names.",
    "few_steps": "So few optimizer steps that warm-up and the optimizer's averages are a good part of the training.",
    "at_edge": "N, D or a tuned setting lies at the end of what was explored, or outside: a better one may lie beyond.",
    "high_outlier": "The loss lies far above the joint law: the run may have diverged, or be badly tuned.",
    "loss_se": "The loss was measured far less precisely than that of most runs.",
    "units": "N, D and C that no training has, or that are not of one unit: nothing is called supported.",
    "perplexity": "A loss of more nats than guessing costs, as a perplexity has: nothing is called supported.",
}
GRAVE = ("units", "perplexity")  # doubts about what the columns mean, not about a run

ALL = "all runs"  # in place of a run's name
# C over 6 (N + head) D of the largest models, where head and attention weigh least; a forward pass alone is a third.
USUAL_C = (0.3, 10.0)
APART = 10.0  # sizes next to each other lie closer in C / (N D)
SMALLEST = 500  # parameters: less than one layer of eight channels
TOKENS_A_PARAMETER = (1e-3, 1e5)
GUESSING = 10.0  # nats a token, of 22,000 equally likely ones

MOST_ROWS = 20_000  # every run is a mark in the figures
MOST_DRAWN = 8_000_000  # rows times draws: the bootstrap of the joint law holds 520 bytes of each, 4 GB
OFF = 1.1  # whole steps miss a budget by about 1 %
LEAST_STEPS = 100  # what an average with decay 0.99 reaches back
FAR = 4.0  # robust standard deviations
SMALL = 1e-3  # of the loss: nobody minds less, however little the runs scatter
LEFT_OVER = 8  # runs beyond the law's parameters before their scatter is known
IMPRECISE = 3.0  # times the median standard error
# What the checkpoints of one run have in common
FIXED = ("N", "seed", "N_head", "N_embedding", "unique_tokens", "lr", "batch", "weight_decay", "dropout", "fraction")
FIXED_TEXT = ("size", "schedule", "optimizer", "parametrization", "mixing")


def check(runs: RunTable, options: Options) -> tuple[Note, ...]:
    """A note for every doubt about a run, in the order of `CODES`; a run may have several.

    runs: of one kind and on the same patients, with all settings that were tried.
    Raises: UserError for more rows than memory holds, or figures can show.
    """
    affordable(runs, options)
    doubts = (_duplicates, _off_budget, _few_steps, _at_edge, _high_outliers, _imprecise, _units, _perplexity)
    return tuple(note for doubt in doubts for note in doubt(runs))


def affordable(runs: RunTable, options: Options) -> None:
    """Raises: UserError where the bootstrap needs more memory than a workstation has, or figures cannot be drawn."""
    most = min(MOST_ROWS, MOST_DRAWN // max(options.draws, 1))
    if len(runs) <= most:
        return
    fewer = f", or take --draws={MOST_DRAWN // len(runs)}" if len(runs) <= MOST_ROWS else ""
    raise UserError(
        f"{runs.source}: {len(runs):,} rows, and {options.draws:,} bootstrap draws of them need "
        f"{520 * len(runs) * options.draws / 1e9:.0f} GB; {most:,} rows can be fitted: keep one checkpoint a run, "
        f"or fewer{fewer}"
    )


def _noted(runs: RunTable, which: NDArray[np.bool_], code: str, text: Callable[[int], str]) -> list[Note]:
    return [Note(str(runs.run[i]), code, text(i)) for i in np.flatnonzero(which).tolist()]


def _duplicates(runs: RunTable) -> list[Note]:
    others = [name for name in (*TEXT, *REQUIRED, *OPTIONAL) if name not in ("run", "cell")]
    columns = [getattr(runs, name) for name in others]
    known = [c if c.dtype.kind == "U" else np.nan_to_num(c, nan=-1.0) for c in columns]
    notes = []
    for rows in selection.grouped(list(zip(*(c.tolist() for c in known), strict=True))).values():
        text = f"{len(rows)} rows are equal in every column, the loss too; copies make intervals too narrow"
        notes += [Note(str(runs.run[i]), "duplicate", text) for i in rows[1:]]
    for rows in selection.grouped(runs.run.tolist()).values():
        if len(rows) < 2:
            continue
        varying = [n for n in (*FIXED_TEXT, *FIXED) if len(np.unique(getattr(runs, n)[rows])) > 1]
        if varying:
            text = f"shares its run id with rows of another {', '.join(varying)}; checkpoints of a run alone may"
        elif len(np.unique(runs.D[rows])) < len(np.unique(np.column_stack([runs.D[rows], runs.loss[rows]]), axis=0)):
            text = "the run has two losses at one D"
        else:
            continue
        notes.append(Note(str(runs.run[rows[0]]), "duplicate", text))
    return notes


def _off_budget(runs: RunTable) -> list[Note]:
    if not np.isfinite(runs.budget).all():
        return []  # grouped by C itself
    middle = np.array([np.median(runs.C[runs.group == g]) for g in range(len(runs.budgets))])[runs.group]
    off = np.abs(np.log(runs.C / middle)) > np.log(OFF)
    return _noted(
        runs, off, "off_budget", lambda i: f"{power(runs.C[i])} FLOPs, {power(middle[i])} in the middle of its budget"
    )


def _few_steps(runs: RunTable) -> list[Note]:
    steps = runs.D / runs.batch
    return _noted(runs, steps < LEAST_STEPS, "few_steps", lambda i: f"{significant(steps[i])} steps of the optimizer")


def _at_edge(runs: RunTable) -> list[Note]:
    rules = "what the rules for batch and rate were explored on"
    notes = _noted(runs, runs.edge != "", "at_edge", lambda i: f"{runs.edge[i]} outside of {rules}")
    for cell in selection.tuned(runs).cells:
        if cell["edge"]:
            levers = " and ".join(selection.LEVERS[name] for name in cell["edge"])
            text = f"the cell's best {levers} is the smallest or largest tried"
            notes += [Note(run, "at_edge", text) for run in cell["runs"]]
    return notes


def _high_outliers(runs: RunTable) -> list[Note]:
    """Runs above the coupled law by `FAR` times the scatter of the runs about it.

    The Huber loss of the fit hardly sees outliers. The scatter is 1.4826 times the median |residual| of log L, without
    the smallest: with so small a δ the law passes through as many runs as it has parameters.
    """
    best = runs.take(selection.tuned(runs).keep)
    law = joint_laws.fit("coupled", best.N, best.D, best.loss, best.clusters, Options(draws=0))
    if law is None or len(best) < len(law.form.free) + LEFT_OVER:
        return []
    above: Floats = -law.residuals
    scatter = 1.4826 * float(np.median(np.sort(np.abs(above))[len(law.form.free) :]))
    limit = max(FAR * scatter, SMALL)
    return _noted(
        best,
        above > limit,
        "high_outlier",
        lambda i: (
            f"loss {percent(float(np.expm1(above[i])), 1)} above the joint law, "
            f"where the runs scatter by {percent(scatter, 2)}"
        ),
    )


def _imprecise(runs: RunTable) -> list[Note]:
    known = np.isfinite(runs.loss_se)
    usual = float(np.median(runs.loss_se[known])) if known.any() else np.nan
    text = f"times the usual standard error {significant(usual, 2)}"
    large = known & (runs.loss_se > IMPRECISE * usual)
    return _noted(runs, large, "loss_se", lambda i: f"{significant(runs.loss_se[i] / usual, 2)} {text}")


def _units(runs: RunTable) -> list[Note]:
    ratio = runs.C / runs.N / runs.D
    odd = impossible(ratio)
    if odd.any():
        return _noted(runs, odd, "units", lambda i: f"C / (N D) is {power(ratio[i])}")
    ends, heap = heaps(ratio, APART)
    if len(ends):
        most = int(np.bincount(heap).argmax())
        rest = significant(float(np.median(ratio[heap == most])))
        text = f"in {int((heap == most).sum())} of {len(runs)} rows: C, N or D of these may be in other units"
        return _noted(runs, heap != most, "units", lambda i: f"C / (N D) is {power(ratio[i])}, {rest} {text}")
    head = np.where(np.isfinite(runs.N_head), runs.N_head, 0.0)
    times = float(np.median((runs.C / (6 * (runs.N + head) * runs.D))[runs.N.max() / 2 <= runs.N]))
    a_parameter = float(np.median(runs.D / runs.N))
    notes = []
    if not USUAL_C[0] <= times <= USUAL_C[1]:
        notes.append(f"C is {significant(times)} times 6 N D for the largest models: C, N or D may be in other units")
    if not TOKENS_A_PARAMETER[0] <= a_parameter <= TOKENS_A_PARAMETER[1]:
        notes.append(f"{power(a_parameter)} tokens a parameter: N or D may be in thousands, millions or billions")
    elif runs.N.min() < SMALLEST:
        notes.append(f"a model of {significant(float(runs.N.min()))} parameters: N may be in millions or billions")
    return [Note(ALL, "units", text) for text in notes]


def _perplexity(runs: RunTable) -> list[Note]:
    middle = float(np.median(runs.loss))
    if middle <= GUESSING:
        return []
    text = f"the loss is {significant(middle)} in the middle: a perplexity? The loss in nats a token is its logarithm"
    return [Note(ALL, "perplexity", text)]


def grave(notes: Iterable[Note]) -> str:
    """The first doubt about what the columns mean, in a line; "" without one."""
    return next((f"doubtful {note.code}: {note.text}" for note in notes if note.code in GRAVE), "")


def by_run(notes: Iterable[Note]) -> dict[str, str]:
    """{run: its codes, joined}, for the table of all cells."""
    codes: dict[str, list[str]] = {}
    for note in notes:
        codes.setdefault(note.run, []).append(note.code)
    return {run: ", ".join(dict.fromkeys(run_codes)) for run, run_codes in codes.items()}
