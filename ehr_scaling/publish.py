"""A study as others can cite and refit it: a row a run, thinned curves, laws, and claims that were filed before it ran.

Nothing of any patient goes out: losses, scores and counts of whole splits alone, and no checkpoint.
"""

import csv
import dataclasses
import operator
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

from ehr_scaling import artifacts, provenance, storage
from ehr_scaling.analysis.outcomes import scores
from ehr_scaling.data import parquet
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import RESULTS, Layout
from ehr_scaling.training import checkpoint, tracking

RUNS, CURVES, LAWS, CLAIMS = "runs.csv", "curves.csv", "laws.json", "claims.json"
LEAST_SEEDS = 2  # of a cell; fewer are an anecdote
POINT = ("budget", "passes", "fraction", "size", "seed")  # what names a run in a claims file
SAME_PASSES = 1.25  # factor: padding adds to the tokens of a pass, and listed passes lie further apart
_POINTS_OF_A_CURVE = 40
_COPIED = (
    *("size", "width", "layers", "heads", "ff", "context", "vocab", "seed", "budget", "fraction", "phase"),
    *("optimizer", "schedule", "parametrization", "mixing", "tied", "dropout", "weight_decay", "learning_rate"),
    *("rate_multiple", "batch_tokens", "steps", "N_body", "N_head", "N_embedding", "tokens", "unique_tokens"),
    *("passes", "patients", "flops", "flops_6nd", "validation_loss", "validation_loss_se", "train_loss", "edge"),
)
_UNITS = {"event": "events", "day": "patient_days", "patient": "patients"}
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "at_most": operator.le,
    "at_least": operator.ge,
    "is": operator.eq,
    "between": lambda value, bounds: bounds[0] <= value <= bounds[1],
}


class Claim(NamedTuple):
    """claim: in words. figure: where its number stands in laws.json. test, bound: one of _TESTS, and what it asks."""

    claim: str
    figure: str
    test: str
    bound: Any


class Claims(NamedTuple):
    """runs: [{budgets or passes, fractions, sizes, seeds}], whose products are the runs of the study.

    claims: in the file {claim, figure, and at_most, at_least, is or between: bound}.
    """

    study: str
    runs: list[dict[str, list[Any]]]
    claims: list[Claim]


def read_claims(path: Path) -> Claims:
    """A claims file, YAML: study, runs and claims, as `Claims` has them. Raises: UserError that names the entry."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is no YAML: {' '.join(str(e).split())}") from None
    if not isinstance(value, dict) or set(value) != {"study", "runs", "claims"}:
        raise UserError(f"{path}: give study, runs and claims, and nothing else")
    for name in ("runs", "claims"):
        if not isinstance(value[name], list) or not all(isinstance(entry, dict) for entry in value[name]):
            raise UserError(f"{path}: {name} is a list of entries with fields")
    for number, entry in enumerate(value["runs"], 1):
        lengths = {"budgets", "passes"} & set(entry)
        if len(lengths) != 1 or not {"sizes", "seeds"} <= set(entry) <= {*lengths, "fractions", "sizes", "seeds"}:
            raise UserError(f"{path}: runs, entry {number}: give budgets or passes, sizes, seeds, and fractions or not")
        if not all(isinstance(field, list) for field in entry.values()):
            raise UserError(f"{path}: runs, entry {number}: each field is a list, such as [1, 2]")
        if len(entry["seeds"]) < LEAST_SEEDS:
            raise UserError(f"{path}: runs, entry {number}: {len(entry['seeds'])} seed is too few, take {LEAST_SEEDS}")
    claims = []
    for number, entry in enumerate(value["claims"], 1):
        tests = set(_TESTS) & set(entry)
        if len(tests) != 1 or set(entry) != {"claim", "figure", *tests}:
            raise UserError(
                f"{path}: claims, entry {number}: give claim, figure and one of {', '.join(_TESTS)}, and nothing else"
            )
        test = tests.pop()
        bounds = {"at_most": (entry[test],), "at_least": (entry[test],), "between": entry[test], "is": ()}[test]
        if not all(isinstance(bound, int | float) for bound in bounds) or (test == "between" and len(bounds) != 2):
            raise UserError(f"{path}: claims, entry {number}: {test} takes numbers, written as 0.01 or 1.0e+10")
        claims.append(Claim(str(entry["claim"]), str(entry["figure"]), test, entry[test]))
    return Claims(str(value["study"]), value["runs"], claims)


def points(claims: Claims) -> set[tuple[Any, ...]]:
    """The runs that a claims file lists, each as (budget in FLOPs or None, passes over the data or None, fraction,
    size, seed), in the order of POINT: a run has a budget or passes, not both."""
    listed = set()
    for entry in claims.runs:
        name = "budgets" if "budgets" in entry else "passes"
        for length in entry[name]:
            place = (float(length), None) if name == "budgets" else (None, float(length))
            for fraction in entry.get("fractions", (1.0,)):
                listed |= {
                    (*place, float(fraction), size, int(seed)) for size in entry["sizes"] for seed in entry["seeds"]
                }
    return listed


def point_of(cell: Cell, passes: Iterable[float]) -> tuple[Any, ...]:
    """What POINT names of a cell. passes: those that are listed; a run of none of them has None."""
    budget, seen = cell.budget, cell.tokens / cell.unique_tokens
    near = (p for p in passes if max(p / seen, seen / p) < SAME_PASSES)
    return (budget, None if budget else next(near, None), cell.fraction, cell.size, cell.seed)


def rows(workdir: Path, cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row of RUNS for each finished run, named as in LAWS, and of CURVES: step, tokens, mean training loss since
    the step before.

    Losses are in nats a token, event, patient-day and patient; AUROC of each task with its interval.
    """
    versions = provenance.versions(("jax", "flax", "optax"))
    runs, curves = [], []
    for cell in cells:
        m = checkpoint.result(Layout(workdir).run(cell.id), cell.steps)
        if m is None:
            continue
        row = {"run": cell.id} | {name: m.get(name) for name in _COPIED}
        row |= {"real_tokens": int(m["real_tokens"]), "seconds": round(m["wall_seconds"], 1)}
        for unit, count in _UNITS.items():
            per = m["measured_on"]["tokens"] / m["measured_on"][count]
            row |= {
                f"loss_per_{unit}": m["validation_loss"] * per,
                f"loss_per_{unit}_se": m["validation_loss_se"] * per,
            }
        for path in sorted(workdir.glob(f"outcomes/*/{cell.id}.json")):
            score = artifacts.read_json(path)
            if "auroc" in score and (cell.generated or not scores.too_small(score)):
                auroc = {"": score["auroc"], "_low": score["low"], "_high": score["high"]}
                row |= {f"auroc_{path.parent.name}{end}": value for end, value in auroc.items()}
        runs.append(row | {f"version_{name}": version for name, version in versions.items()})
        curves += [{"run": row["run"], **point} for point in _thinned(m["curve"], cell.batch_tokens)]
    return runs, curves


def export_runs(workdir: Path, to: str) -> int:
    """The finished runs of a study → a table, columns as in RUNS, which `launch.analyze --runs` reads; how many.

    Args: to, a .csv or .parquet file, or wandb:PROJECT, which gets a run of Weights & Biases for each (what a run was
      to be is its config, what came of it its summary).
    Raises: UserError for another `to`, and where nothing is finished.
    """
    there, (kind, _, project) = Layout(workdir), to.partition(":")
    path, wandb = Path(to), project if kind == "wandb" else ""
    if not wandb and path.suffix not in _WRITERS:
        raise UserError(f"--runs={to}: give a {' or '.join(_WRITERS)} file, or wandb:PROJECT")
    for folder, pattern in ((there.runs, RESULTS), (there.outcomes, "*.json")):
        storage.fetch(folder, pattern)
    table, _ = rows(workdir, [cell for cell in manifest.read(there.grid) if cell.phase == "cooled"])
    if not table:
        raise UserError(f"{workdir} holds no finished run: run launch.study or launch.sweep first")
    if not wandb:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix](path, table)
        return len(table)
    cell_fields = {field.name for field in dataclasses.fields(Cell)}
    for row in table:
        cell = {"id": row["run"], **{name: value for name, value in row.items() if name in cell_fields}}
        run = tracking.wandb_run(workdir, cell, wandb, "--runs=wandb")
        run.summary.update({name: v for name, v in row.items() if name not in cell and name != "run" and v is not None})
        run.finish()
    return len(table)


def _thinned(curve: Sequence[Sequence[float]], batch: int) -> list[dict[str, Any]]:
    """At most _POINTS_OF_A_CURVE means over equal shares of a curve [[step, mean loss since the last step]]."""
    means, size = [], -(-len(curve) // _POINTS_OF_A_CURVE)
    before = 0
    for first in range(0, len(curve), max(size, 1)):
        part = curve[first : first + size]
        total = 0.0
        start = before
        for step, loss in part:
            total, before = total + loss * (step - before), int(step)
        means.append({"step": before, "tokens": before * batch, "loss": total / (before - start)})
    return means


def figure(laws: Any, path: str) -> Any:
    """The number at a path of laws.json: names with dots between; [k] an entry, [name=value] the first that has it;
    at the end `width`, high less low of an interval, or `count(value)`, how many of a list have it. `a / b` is the
    ratio of two paths, of lists that of the entries where it is largest, as far as they have both (repeated runs of one
    size are a budget without a curve). None where it is not known. Raises: UserError for a path that leads nowhere.
    """
    try:
        over, slash, under = path.partition(" / ")
        if not slash:
            return _figure(laws, path)
        ends = [side if isinstance(side, list) else [side] for side in (_figure(laws, over), _figure(laws, under))]
        return max((a / b for a, b in zip(*ends, strict=True) if None not in (a, b)), default=None)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(
            f"claims: no number of laws.json stands at {path!r}: look into report/laws.json, and put dots between "
            "names, [k] or [name=value] for an entry of a list"
        ) from None


def _figure(laws: Any, path: str) -> Any:
    node = laws
    for part in re.findall(r"\[[^\]]*\]|[^.\[\]]+", path):
        if node is None:
            return None
        if part == "width":
            node = node[1] - node[0]
        elif part.startswith("count("):
            node = sum(str(value) == part[6:-1] for value in node)
        elif part.startswith("["):
            name, equals, wanted = part[1:-1].partition("=")
            entries = [entry for entry in node if str(entry[name]) == wanted] if equals else node[int(name) :][:1]
            node = entries[0] if entries else None
        elif isinstance(node, list):
            node = [entry[part] for entry in node]
        else:
            node = node[part]
    return node


def judged(claims: Claims, laws: Mapping[str, Any], complete: bool) -> list[dict[str, Any]]:
    """Each claim with its value and a word: held, failed, or incomplete where runs are missing, or the number."""
    verdicts = []
    for claim in claims.claims:
        value = figure(laws, claim.figure)
        if claim.test != "is" and not isinstance(value, int | float | None):
            raise UserError(
                f"claims: {claim.figure!r} is no number of laws.json: name one of its entries, or its width"
            )
        word = (
            "incomplete"
            if value is None or not complete
            else "held"
            if _TESTS[claim.test](value, claim.bound)
            else "failed"
        )
        verdicts.append({**claim._asdict(), "value": value, "word": word})
    return verdicts


def publish(workdir: Path, claims_file: Path, out: Path) -> dict[str, Any]:
    """A finished study → `out`: runs.csv, curves.csv, laws.json, claims.json, figures.

    Returns: {"listed", "finished", "missing": points, "others": runs that are not listed and left out, "claims"}.
    Raises: UserError where the report is missing, or was made from runs that the claims file does not list.
    """
    claims = read_claims(claims_file)
    there = Layout(workdir)
    for folder, pattern in ((there.runs, RESULTS), (there.outcomes, "*.json"), (there.report, "*")):
        storage.fetch(folder, pattern)
    listed = points(claims)
    lengths = sorted({point[1] for point in listed if point[1] is not None})
    # In the report's order: resamples of rows are then the same, and so is each number of a law that is fitted to RUNS.
    cells = sorted((c for c in manifest.read(Layout(workdir).grid) if c.phase == "cooled"), key=lambda c: str(c.id))
    chosen = [cell for cell in cells if point_of(cell, lengths) in listed]
    if len({point_of(cell, lengths) for cell in chosen}) < len(chosen):
        raise UserError(
            f"{workdir} holds several runs of one budget, size and seed (of several rates?), which {claims_file} does "
            "not tell apart: publish a study with one of them"
        )
    runs, curves = rows(workdir, chosen)
    report = Layout(workdir).report / LAWS
    if not report.is_file():
        raise UserError(f"{report} is missing: run launch.study first")
    laws = artifacts.read_json(report)
    if (others := len(cells) - len(chosen)) and laws["data"]["runs"] > len(chosen):
        raise UserError(
            f"{claims_file} does not list {others} runs of {workdir}, which are in its report: analyze {RUNS} alone"
        )
    missing = sorted(listed - {point_of(cell, lengths) for cell in chosen}, key=str)
    unfinished = len(chosen) - len(runs)
    summary = {
        "study": claims.study,
        "listed": len(listed),
        "finished": len(runs),
        "missing": len(missing) + unfinished,
        "others": others,
        "claims": judged(claims, laws, complete=not missing and not unfinished),
    }
    out.mkdir(parents=True, exist_ok=True)
    _write(out / RUNS, runs)
    _write(out / CURVES, curves)
    for name in ("provenance", "files"):  # of the machine, and of the page
        laws.pop(name, None)
    artifacts.write_json(out / LAWS, laws)
    artifacts.write_json(out / CLAIMS, summary)
    (out / "figures").mkdir(exist_ok=True)
    for picture in sorted((Layout(workdir).report / "figures").glob("*.png")):
        shutil.copyfile(picture, out / "figures" / picture.name)
    return summary


def _names(table: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def _write(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    with artifacts.writing(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, _names(table))
        writer.writeheader()
        writer.writerows(table)


def _write_parquet(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    parquet.write(path, pa.table({name: [row.get(name) for row in table] for name in _names(table)}))


_WRITERS = {".csv": _write, ".parquet": _write_parquet}
