"""IsoFLOP tables of a known law, for tests."""

import json
from pathlib import Path

import numpy as np

from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import plan_basis
from ehr_scaling.analysis.tables.run_table import RunTable, from_rows

RECORDED = {"patients": 800, "unique_tokens": 2e6, "batch": 2048, "lr": 0.004}  # of runs of a study

LAW = {"E": 1.0, "A": 62.6, "B": 219.0, "alpha": 0.34, "beta": 0.34}
EXPONENT = LAW["beta"] / (LAW["alpha"] + LAW["beta"])


def loss(N, D):
    return LAW["E"] + LAW["A"] * N ** -LAW["alpha"] + LAW["B"] * D ** -LAW["beta"]


def optimum(C):
    """N* of the law at C = 6 N D."""
    alpha, beta = LAW["alpha"], LAW["beta"]
    ratio = alpha * LAW["A"] / (beta * LAW["B"])
    return ratio ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))


def rows(budgets=4, sizes=6, seeds=2, noise=0.01, decades=1.5, spacing=1.9, seed=0, shift=0.0, extra=None):
    """A grid centred near the optimum of every budget; `shift` moves it by so many steps of size."""
    rng = np.random.default_rng(seed)
    out = []
    for C in np.geomspace(1e11, 1e11 * 10**decades, budgets):
        middle = optimum(1e11) * (C / 1e11) ** 0.5
        for N in middle * spacing ** (np.arange(sizes) - (sizes - 1) / 2 + shift):
            for s in range(seeds):
                D = C / (6 * N)
                value = loss(N, D) + noise * rng.standard_normal()
                run = f"{C:.3g}-{N:.4g}-{s}"
                out.append(
                    {"run": run, "cell": run, "size": f"{N:.0f}", "seed": s, "N": N, "D": D, "C": C, "loss": value}
                )
                out[-1] |= extra or {}
    return out


def table(**settings) -> RunTable:
    return from_rows(rows(**settings), source="simulated")


def profile(losses, C=1e12, low=1e4, spacing=2.0, seeds=1, noise=0.0, seed=0) -> RunTable:
    """One budget with the given losses at sizes `low`, `low` x spacing, ..."""
    rng = np.random.default_rng(seed)
    out = []
    for i, value in enumerate(losses):
        N = low * spacing**i
        for s in range(seeds):
            out.append({"N": N, "D": C / 6 / N, "C": C, "loss": value + noise * rng.standard_normal(), "seed": s})
    return from_rows(out, source="profile")


def widening(bend, seed=0, noise=2e-4):
    """Profiles that are parabolas near their minimum and lopsided beyond it, the more the larger their compute."""
    rng, rows = np.random.default_rng(seed), []
    for k, C in enumerate(np.geomspace(1e11, 1e14, 7)):
        for u in np.arange(-4.0, 4.5, 0.5):
            N = 1e4 * 2.0 ** (u + 0.8 * k)
            far = max(abs(u) - 1.5, 0.0) ** 2 * np.sign(u)
            loss = (2 + 0.05 * u**2 - bend * (k - 3) * far) * np.exp(noise * rng.standard_normal())
            rows.append({"N": N, "D": C / 6 / N, "C": C, "loss": loss})
    return from_rows(rows, source="widening")


def recipe(multiple=1.0, seed=0, noise=0.005, budgets=5, sizes=6, **changes):
    """Runs of which each is as good as one of the known law with 1 / multiple of the compute, sqrt in N and in D.

    sizes: of each budget; with three none is bracketed.
    """
    rng = np.random.default_rng(seed)
    found = rows(budgets=budgets, sizes=sizes, seeds=12 // sizes, noise=0)
    for r in found:
        r["loss"] = loss(r["N"] / multiple**0.5, r["D"] / multiple**0.5)
        r["loss"] *= np.exp(noise * rng.standard_normal())
        r.update(changes)
    return from_rows(found, source="made up")


def write_runs(folder: Path, records, **facts) -> None:
    """The layout that the trainer leaves: <cell>/<step>/metrics/metrics."""
    for record in records:
        step = folder / record["cell"] / "120" / "metrics"
        step.mkdir(parents=True)
        metrics = {
            "finished": True, "cell": record["cell"], "size": record["size"], "seed": record["seed"],
            "budget": float(f"{record['C']:.3g}"), "N_body": record["N"], "N_head": 512, "N_embedding": 512,
            "flops": record["C"], "flops_6nd": 6 * record["N"] * record["D"], "tokens_seen": record["D"],
            "real_tokens": 0.9 * record["D"], "unique_tokens": 2e6, "patients": 800, "passes": 0.9 * record["D"] / 2e6,
            "learning_rate": 0.004, "batch_tokens": 2048, "weight_decay": 0.1, "validation_loss": record["loss"],
            "validation_loss_se": 0.01, "phase": "cooled", "data": "made-up patients", "generated": True,
            "measured_on": record.get("measured_on"), **facts,
        }  # fmt: skip
        (step / "metrics").write_text(json.dumps(metrics))


def write_scores(folder, table, slope=-0.2, noise=0.0):
    """A score for every cell, whose AUROC follows its loss, and those of a baseline, as files."""
    task = folder / "made_up_task"
    task.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for cell, loss in zip(table.cell, table.loss, strict=True):
        auroc = 0.8 + slope * (loss - 5) / 10 + noise * rng.standard_normal()
        score = {
            "cell": str(cell),
            "auroc": auroc,
            "low": auroc - 0.03,
            "high": auroc + 0.03,
            "n": 300,
            "positives": 40,
        }
        (task / f"{cell}.json").write_text(json.dumps(score | {"undetermined": 0.01}))
    (task / "baseline.json").write_text(
        json.dumps({"name": "logistic regression", "auroc": 0.81, "low": 0.78, "high": 0.84})
    )
    (task / "task.json").write_text(json.dumps({"description": "A made-up outcome."}))
    return task


def planner_of(table, options=None):
    return plan_basis.planner(extrapolation.forecaster(table, options or Options(draws=120)), table)
