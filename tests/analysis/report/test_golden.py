"""Every number of laws.json, for two made-up studies, is what it was.

A change that means to move numbers writes the files anew, and its commit says why they moved:

    python tests/analysis/report/test_golden.py
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.tables.run_table import RunTable, from_rows

FOLDER = Path(__file__).resolve().parents[1] / "golden"
OPTIONS = Options(draws=24)
DIGITS = 9
NUMBER = r"[\d.,]*\d"
# Numbers are the same to all digits on one or two threads of OpenBLAS, and on its kernels for AVX2 and AVX-512; without
# either, optima and draws of narrow Huber losses move by up to 5e-6.
RELATIVE, ABSOLUTE = 1e-5, 1e-8


def loss(N: float, D: float) -> float:
    return 1.1 + 60.0 * N**-0.33 + 210.0 * D**-0.35


def flops(N: float) -> float:
    """A token through a parameter: small models spend most on the head."""
    return 6.0 * (1 + 2e4 / N**0.9)


def row(N: float, D: float, value: float, **more: Any) -> dict[str, Any]:
    name = f"{N:.0f}-{D:.0f}-{more['seed']}"
    return {"run": name, "cell": name, "size": f"{N:.0f}", "N": N, "D": D, "C": flops(N) * N * D, "loss": value, **more}


def isoflop_with_seeds(folder: Path) -> tuple[RunTable, None]:
    """Five budgets of six sizes with two seeds, off a regular grid, under counted compute."""
    rng = np.random.default_rng(11)
    rows = []
    for k, C in enumerate(np.geomspace(1e12, 1e15, 5)):
        for N in np.round(3e4 * 3.2**k * 2.0 ** (np.arange(6) - 2.5) * np.exp(0.1 * rng.standard_normal(6))):
            D = C / (flops(N) * N)
            apart = 0.001 * rng.standard_normal()
            for seed in range(2):
                noise = np.exp(apart + 0.002 * rng.standard_normal())
                rows.append(row(N, D, loss(N, D) * noise, seed=seed, batch=2048, lr=0.8 / N**0.5))
    return from_rows(rows, source="five budgets"), None


def repeats_with_outcomes(folder: Path) -> tuple[RunTable, Path]:
    """Three sizes on two fractions of the patients for up to sixteen passes, each scored on one outcome."""
    rng = np.random.default_rng(12)
    rows = []
    for N in (41_000.0, 160_000.0, 590_000.0):
        for fraction in (0.2, 1.0):
            for passes in (1, 2, 4, 7, 11, 16):
                unique = 1.3e6 * fraction
                value = loss(N, passes * unique) + 0.004 * (passes - 1) * (N / unique) ** 0.5
                value *= np.exp(0.003 * rng.standard_normal())
                rows.append(
                    row(N, passes * unique, value, seed=0, fraction=fraction, unique_tokens=unique, passes=passes,
                        patients=900 * fraction)
                )  # fmt: skip
    task = folder / "died"
    task.mkdir()
    for r in rows:
        auroc = 0.5 + 0.4 / (1 + np.exp(r["loss"] - 3.5)) + 0.004 * rng.standard_normal()
        score = {"auroc": auroc, "low": auroc - 0.02, "high": auroc + 0.02, "n": 400, "positives": 60}
        (task / f"{r['cell']}.json").write_text(json.dumps(score))
    (task / "baseline.json").write_text(json.dumps({"name": "counts", "auroc": 0.71, "low": 0.68, "high": 0.74}))
    return from_rows(rows, source="passes"), folder


STUDIES = {"isoflop_with_seeds": isoflop_with_seeds, "repeats_with_outcomes": repeats_with_outcomes}


def written(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        table, outcomes = STUDIES[name](Path(folder))
        return json.loads(json.dumps(results.to_json(results.fit(table, OPTIONS, outcomes))))


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, word and null under its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{at}/{key}")
    elif isinstance(value, list):
        yield f"{at}/length", len(value)
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{at}/{i}")
    else:
        yield at, value


def same(at: str, golden: Any, found: Any) -> bool:
    """Sentences are compared but for their numbers, which round; fingerprints are of all digits."""
    if isinstance(golden, str) and isinstance(found, str):
        return at.endswith("fingerprint") or re.sub(NUMBER, "#", golden) == re.sub(NUMBER, "#", found)
    if isinstance(golden, int | float) and isinstance(found, int | float) and not isinstance(golden, bool):
        return abs(found - golden) <= RELATIVE * abs(golden) + ABSOLUTE
    return golden is found or golden == found


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_is_what_it_was(name):
    golden = dict(leaves(json.loads((FOLDER / f"{name}.json").read_text())))
    found = dict(leaves(written(name)))
    assert found.keys() - golden.keys() == set() and golden.keys() - found.keys() == set()
    moved = [f"{at}: {golden[at]!r} -> {found[at]!r}" for at in golden if not same(at, golden[at], found[at])]
    assert not moved, "\n".join([f"{len(moved)} moved, among them:", *moved[:20]])


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in STUDIES:
        (FOLDER / f"{name}.json").write_text(json.dumps(rounded(written(name)), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
