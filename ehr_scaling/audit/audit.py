"""The audit of finished models: what they remember of the patients they were trained on; W/audit/<cell>.json.

Four questions to a model, of members, whose window it was trained on, and of held-out patients, whom it never saw:
does it go on from a prompt as the record does, more often than with held-out patients; does its loss tell who was a
member; does it know rare tokens better where it was trained on them. What both sides share is prediction, not memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.audit import asking, sharing, statistics, whom, windows
from ehr_scaling.audit.statistics import SUPPRESSED, Counts, Occurrences
from ehr_scaling.audit.whom import Side, Whom
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing
from ehr_scaling.outcomes.judging.metrics.calibration import SMALLEST
from ehr_scaling.training.setup import restored_params

VERSION = 3  # of what an audit measures: raise it with every change to that, and models are audited again
CONTINUED = (8, 16, 32)  # tokens
NEARLY = 0.9  # 1 − edits / tokens, from which on a continuation is nearly the record's
RARE = ((1, 20), (21, 50), (51, 100))  # patients that have a token
RECALLED = (1, 10)  # among so many likeliest tokens
RARE_DIGITS = 2  # of real patients: those of a band may be a dozen


@dataclass(frozen=True)
class Settings:
    """patients: of each side at most, and again as many that have rare tokens. prompt: timeline tokens, behind the
    static context. draws: of the bootstrap over patients."""

    patients: int = 2000
    prompt: int = 32
    draws: int = 1000
    seed: int = 0


class PlannedAudit(NamedTuple):
    """The audit of one model, before anything is read: whom it is asked about, and where its record goes."""

    cell: Cell
    whom: Whom
    inputs: dict[str, Any]  # all that the audit depends on; its fingerprint tells an earlier audit of the same
    positions: int  # tokens of the windows that it and its reference read, at most
    path: Path  # of the JSON that is written

    @property
    def cost(self) -> float:
        """About as many FLOPs: of forward passes over the windows of both sides, by it and its reference."""
        cells = [self.cell, *([self.whom.reference.cell] if self.whom.reference else [])]
        return 2.0 * self.positions * sum(cell.N_body + cell.N_head for cell in cells)


def plan_audit(
    workdir: Path, cell: Cell, others: list[tuple[float, Cell]], settings: Settings, out: Path
) -> PlannedAudit:
    """The audit of a model: whom it is asked about, and where its record goes; no model is restored.

    Raises: UserError as `whom.choose`.
    """
    chosen = whom.choose(workdir, cell, others, settings.seed)
    folder = Layout(workdir).timelines
    record = artifacts.record(folder)
    vocabulary = timelines.vocabulary(workdir)
    choosing.check_timelines(cell, workdir, record["fingerprint"], len(vocabulary.tokens), folder)
    most = [min(2 * settings.patients, len(s.windows.patients)) for s in (chosen.members, chosen.held_out)]
    inputs = {
        "version": VERSION,
        "cell": cell.id,
        "packed": cell.packed,
        "reference": chosen.reference.cell.id if chosen.reference else None,
        "held_out": chosen.source,
        **asdict(settings),
    }
    return PlannedAudit(cell, chosen, inputs, sum(most) * cell.context, out / f"{cell.id}.json")


def earlier_audit(plan: PlannedAudit) -> dict[str, Any] | None:
    """The record of an audit of the same inputs that is already written, else None. Raises: UserError where the file is
    damaged."""
    storage.fetch(plan.path)
    if not plan.path.is_file():
        return None
    record = artifacts.read_json(plan.path, f"delete {plan.path} and run again", must_be_sealed=True)
    return record if record.get("fingerprint") == artifacts.fingerprint(plan.inputs) else None


def audit(
    workdir: Path, plan: PlannedAudit, settings: Settings, generated: bool, report: asking.Report
) -> dict[str, Any]:
    """Ask one model, and write what it remembers. Args: report, is told positions as they are read."""
    cell, chosen = plan.cell, plan.whom
    vocabulary = timelines.vocabulary(workdir)
    counts = sharing.patients_by_token(workdir, chosen.seen, len(vocabulary.tokens))
    rng = np.random.default_rng([settings.seed, 2])
    sides = [_sampled(workdir, side, counts, settings, rng) for side in (chosen.members, chosen.held_out)]
    both = _Both(sides, vocabulary.context_tokens, len(vocabulary.tokens))
    model, params = restored_params(cell, Layout(workdir).run(cell.id))
    answers = asking.answers(model, params, both.tokens, both.lengths, report)
    goes_on = _continuation(workdir, (model, params), chosen, both, settings, generated, report)
    del params
    reference = _reference(workdir, chosen, both, report)
    times = chosen.times[np.isin(chosen.members.windows.patients, both.patients[both.members & both.drawn])]
    told = {
        "cell": cell.id,
        "size": cell.size,
        "N": cell.N_body,
        "D": cell.tokens,
        "C": cell.flops,
        "seed": cell.seed,
        "fraction": cell.fraction,
        "passes": cell.tokens / cell.unique_tokens,
        "started_from": cell.init or None,
        "times_read": float(times.mean()) if generated else float(f"{times.mean():.2g}"),
        "patients_read": disclosure.told(len(chosen.seen), generated),
        "generated": generated,
        "settings": asdict(settings),
        "held_out": chosen.source,
        "members": disclosure.told(int((both.members & both.drawn).sum()), generated),
        "held_out_patients": disclosure.told(int((~both.members & both.drawn).sum()), generated),
        "membership": _membership(both, answers, reference, settings, generated),
        "continuation": goes_on,
        "rare": _rare(both, answers, counts, settings, generated),
    }
    record = {**told, "inputs": plan.inputs, "fingerprint": artifacts.fingerprint(plan.inputs)}
    plan.path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_sealed(plan.path, record)
    storage.store(plan.path)
    return artifacts.read_json(plan.path)


class _Sampled(NamedTuple):
    side: Side
    tokens: np.ndarray  # int32 (n, T+1)
    drawn: np.ndarray  # bool (n,), at random; else for a rare token


def _sampled(workdir: Path, side: Side, counts: np.ndarray, settings: Settings, rng: np.random.Generator) -> _Sampled:
    patients = side.windows.patients
    drawn = rng.choice(patients, min(settings.patients, len(patients)), replace=False)
    rare = sharing.rarest(workdir, side.split, patients, counts, RARE[-1][1])[: settings.patients]
    taken = side._replace(windows=side.windows.of_patients(np.concatenate([drawn, rare])))
    tokens = windows.read(side.packed, side.split, taken.windows)
    return _Sampled(taken, tokens, np.isin(taken.windows.patients, drawn))


class _Both:
    """Members, then held-out patients: n windows."""

    def __init__(self, sides: list[_Sampled], prefix: int, vocabulary: int) -> None:
        self.sides, self.prefix, self.vocabulary = [sampled.side for sampled in sides], prefix, vocabulary
        self.tokens = np.concatenate([sampled.tokens for sampled in sides])
        self.lengths = np.concatenate([side.windows.lengths for side in self.sides])
        self.patients = np.concatenate([side.windows.patients for side in self.sides])
        self.drawn = np.concatenate([sampled.drawn for sampled in sides])
        self.members = np.arange(len(self.tokens)) < len(sides[0].tokens)

    @property
    def targets(self) -> np.ndarray:
        """Which tokens after the first are of the timeline: bool (n, T)."""
        at = np.arange(1, self.tokens.shape[1])
        return np.asarray((at >= self.prefix) & (at < self.lengths[:, None]))

    def mean(self, losses: np.ndarray) -> np.ndarray:
        """Nats a token of the timeline: float64 (n,)."""
        targets = self.targets
        return np.asarray((losses * targets).sum(1, dtype=np.float64) / targets.sum(1))


def _reference(workdir: Path, chosen: Whom, both: _Both, report: asking.Report) -> dict[str, Any] | None:
    """Losses of the reference, and which windows it has not read. None where there is no other model."""
    if chosen.reference is None:
        return None
    cell = chosen.reference.cell
    model, params = restored_params(cell, Layout(workdir).run(cell.id))
    losses = asking.answers(model, params, both.tokens, both.lengths, report).losses
    unread = np.concatenate([chosen.unread(workdir, side) for side in both.sides])
    about = {
        "cell": cell.id,
        "size": cell.size,
        "fraction": cell.fraction,
        "passes": cell.tokens / cell.unique_tokens,
        "saw_members": chosen.reference.saw_members,
    }
    return {"about": about, "losses": losses, "unread": unread}


def _membership(
    both: _Both, answers: asking.Answers, reference: dict[str, Any] | None, settings: Settings, generated: bool
) -> dict[str, Any]:
    """Attacks by the mean loss a token, and by how much lower it is than that of the reference."""
    loss, drawn = both.mean(answers.losses), both.drawn

    def attack(scores: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        members, held_out = scores[rows & both.members], scores[rows & ~both.members]
        fewest = 2 if generated else SMALLEST
        if min(len(members), len(held_out)) < fewest:
            return {"auroc": None, "suppressed": SUPPRESSED}
        patients = {
            "members": disclosure.told(len(members), generated),
            "held_out": disclosure.told(len(held_out), generated),
        }
        measures = statistics.attack(members, held_out, generated=generated, draws=settings.draws, seed=settings.seed)
        return {**measures, **patients}

    attacks: dict[str, Any] = {"loss": attack(-loss, drawn), "ratio": None}
    if reference is not None:
        ratio = both.mean(reference["losses"]) - loss
        attacks["ratio"] = {**attack(ratio, drawn & reference["unread"]), "reference": reference["about"]}
    return attacks


def _continuation(
    workdir: Path,
    trained: tuple[Any, Any],
    chosen: Whom,
    both: _Both,
    settings: Settings,
    generated: bool,
    report: asking.Report,
) -> dict[str, Any]:
    """Of the drawn patients whose window is long enough: whose next tokens the model gives back."""
    begin = both.prefix + settings.prompt
    lengths = [k for k in CONTINUED if begin + k <= both.tokens.shape[1]]
    if not lengths:
        return {
            "rows": [],
            "missing": f"a context of {both.tokens.shape[1] - 1} has no room for prompt and continuation",
        }
    at = np.flatnonzero(both.drawn & (both.lengths >= begin + lengths[-1]))
    members = both.members[at]
    if min(members.sum(), (~members).sum()) < (1 if generated else SMALLEST):
        return {"rows": [], "missing": "too few patients have a window that is long enough"}
    truth = both.tokens[at, begin : begin + lengths[-1]]
    said = asking.continuations(*trained, both.tokens[at, :begin], lengths[-1], report)
    rows, told = [], (Counts(generated), Counts(generated))
    for k in lengths:
        exact = (said[:, :k] == truth[:, :k]).all(1)
        near = asking.edits(said[:, :k], truth[:, :k]) <= (1 - NEARLY) * k + 1e-9
        shared = sharing.patients_by_run(workdir, chosen.seen, truth[:, :k], both.vocabulary) - members
        for whose, among in (("all", np.ones(len(at), bool)), ("unshared", shared == 0)):
            for how, holds in (("exact", exact), ("near", near)):
                row = _difference(holds, (among & members, among & ~members), told, generated)
                rows.append({"tokens": k, "continuations": whose, "match": how, **row})
    return {"rows": rows, "prompt": settings.prompt}


def _difference(
    holds: np.ndarray, sides: tuple[np.ndarray, np.ndarray], told: tuple[Counts, Counts], generated: bool
) -> dict[str, Any]:
    """Shares of both sides, members first, and their difference, as far as they may be told beside those of before."""
    numbers = [int(side.sum()) for side in sides]
    sizes = dict(zip(("members", "held_out"), (disclosure.told(n, generated) for n in numbers), strict=True))
    if min(numbers) < (1 if generated else SMALLEST):
        return {"patients": sizes, "excess": None, "suppressed": SUPPRESSED}
    counts = told[0].of(holds, sides[0]), told[1].of(holds, sides[1])
    return {
        "patients": sizes,
        "members": counts[0].to_json(),
        "held_out": counts[1].to_json(),
        "excess": statistics.excess(*counts),
    }


def _rare(
    both: _Both, answers: asking.Answers, counts: np.ndarray, settings: Settings, generated: bool
) -> list[dict[str, Any]]:
    """How much likelier rare tokens are where members have them than where held-out patients do, fewest first."""
    targets, tokens = both.targets, both.tokens[:, 1:]
    rows, columns = np.nonzero(targets & (counts[tokens] > 0) & (counts[tokens] <= RARE[-1][1]))
    token = tokens[rows, columns].astype(np.int64)
    _, first = np.unique(np.stack([rows, token]), axis=1, return_index=True)  # later ones a model may copy
    rows, columns, token = rows[first], columns[first], token[first]
    at = Occurrences(token, rows, both.members[rows])
    values = {"log_ratio": -answers.losses[rows, columns]}
    values |= {f"recall_{k}": answers.ranks[rows, columns] < k for k in RECALLED}
    told = []
    for fewest, most in RARE:
        band = (counts[token] >= fewest) & (counts[token] <= most)
        sides = [len(np.unique(rows[band & kind])) for kind in (at.members, ~at.members)]
        both_sides = np.intersect1d(token[band & at.members], token[band & ~at.members])
        row: dict[str, Any] = {
            "fewest": fewest,
            "most": most,
            "members": disclosure.told(sides[0], generated),
            "held_out": disclosure.told(sides[1], generated),
            "tokens": disclosure.told(len(both_sides), generated),
        }
        if min(sides) < (1 if generated else SMALLEST) or not len(both_sides):
            told.append({**row, "suppressed": "too few patients of both sides have such tokens"})
            continue
        some = {name: of[band] for name, of in values.items()}
        differences = statistics.stratified(
            at.take(band), some, generated=generated, draws=settings.draws, seed=settings.seed
        )
        told.append({**row, **disclosure.rounded(differences, generated, RARE_DIGITS)})
    return told


def of_grid(workdir: Path, cells: list[str], settings: Settings, out: Path) -> list[PlannedAudit]:
    """Whom each finished model is asked about; those of these ids, or all.

    Raises: UserError as `choosing.best_cell` and `plan_audit`.
    """
    for name in cells or [None]:  # type: ignore[list-item]
        choosing.best_cell(workdir, name)
    for folder in (Layout(workdir).timelines, Layout(workdir).grid):
        storage.fetch(folder)
    done = choosing.finished(workdir)
    return [plan_audit(workdir, cell, done, settings, out) for _, cell in done if not cells or cell.id in cells]


def audits(
    workdir: Path, plans: list[PlannedAudit], settings: Settings, advance: Callable[[int, int], None]
) -> Iterator[tuple[PlannedAudit, dict[str, Any], bool]]:
    """Of each model its audit, and whether it was there before.

    Args: advance, is told the number of a model, and positions as it reads them.
    """
    storage.fetch(Layout(workdir).events, artifacts.RECORD)
    generated = inspection.of_generated(workdir)
    for i, plan in enumerate(plans):
        before = earlier_audit(plan)
        done = before or audit(workdir, plan, settings, generated, partial(advance, i))
        yield plan, done, before is not None
