"""What audits found of the models of a study: the files of launch.audit, a model each."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.analysis.outcomes.scores import Measure
from ehr_scaling.artifacts import read_json
from ehr_scaling.errors import UserError

CONTINUED = 8  # tokens of the continuations that are compared between models
LOSS, RATIO, FOUND, GIVEN_BACK, UNSHARED, RARE = "loss", "ratio", "found", "given_back", "unshared", "rare"


class Audit(NamedTuple):
    """One model. N: body parameters; D: tokens that it was trained on; fraction: of the training patients; times: how
    often it read a member's window, on average; patients: of whom it read any, NaN where that is not told. fair:
    whether the reference of RATIO was not trained on the members. started: from another model, whose patients are not
    known.

    measures: by name, of LOSS and RATIO (membership AUROC), FOUND (members found at 1 % false positives, by RATIO where
    there is a reference), GIVEN_BACK and UNSHARED (excess share whose next 8 tokens are given back: of all, and of
    those that no other training patient has), RARE (log-ratio of the rarest tokens that both sides have).
    """

    cell: str
    size: str
    N: float
    D: float
    fraction: float
    passes: float
    times: float
    patients: float
    measures: dict[str, Measure]
    fair: bool
    started: bool


def read(folder: Path, cells: set[str]) -> list[Audit]:
    """The audits of these cells, by ascending N, times and patients. Raises: UserError where there is no such
    folder, and naming a damaged file."""
    if not folder.is_dir():
        raise UserError(f"--audit={folder}: no such directory; run launch.audit first or leave the flag out")
    audits = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path, f"delete {path} and run launch.audit again", must_be_sealed=True)
        try:
            audit = of(record)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is no audit of this version: delete it and run launch.audit again") from None
        audits += [audit] if audit.cell in cells else []
    return sorted(audits, key=lambda a: (a.N, a.times, a.patients, a.cell))


def of(record: dict[str, Any]) -> Audit:
    """What the file of one model says. Raises: KeyError, TypeError or AttributeError for one of another version."""
    attacks = record["membership"]
    ratio = attacks["ratio"]
    measures = {LOSS: _measure({"value": attacks["loss"]["auroc"], **attacks["loss"]})}
    if ratio is not None:
        measures[RATIO] = _measure({"value": ratio["auroc"], **ratio})
    measures[FOUND] = _measure((ratio or attacks["loss"]).get("true_positives"))
    for row in record["continuation"]["rows"]:
        if (row["tokens"], row["match"]) == (CONTINUED, "exact"):
            measures[GIVEN_BACK if row["continuations"] == "all" else UNSHARED] = _measure(row["excess"])
    measures[RARE] = _measure(next((row["log_ratio"] for row in record["rare"] if "log_ratio" in row), None))
    patients = record["patients_read"]
    return Audit(
        cell=str(record["cell"]),
        size=str(record["size"]),
        N=float(record["N"]),
        D=float(record["D"]),
        fraction=float(record["fraction"]),
        passes=float(record["passes"]),
        times=float(record["times_read"]),
        patients=np.nan if patients is None else float(patients),
        measures={name: measure for name, measure in measures.items() if measure is not None},
        fair=ratio is not None and not ratio["reference"]["saw_members"],
        started=record["started_from"] is not None,
    )


def _measure(part: dict[str, Any] | None) -> Measure | None:
    """None where there is no interval: of counts that are not told there is no value, but what it may be."""
    if part is None or part.get("high") is None or part.get("low") is None:
        return None
    value = part["value"]
    return Measure(np.nan if value is None else float(value), float(part["low"]), float(part["high"]))
