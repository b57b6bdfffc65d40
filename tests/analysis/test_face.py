"""What a stranger meets: tables under usual names, one import, answers that can be read, doubts that are heard."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import simulated

from ehr_scaling import analysis as laws
from ehr_scaling.analysis.joint import quality
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import results
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import DOUBTFUL, EXTRAPOLATED, SUPPORTED, Verdict, doubted
from ehr_scaling.errors import UserError

ROWS = simulated.rows(budgets=3, sizes=4, seeds=1)
COLUMNS = {name: [row[name] for row in ROWS] for name in ("N", "D", "C", "loss")}
CORPORA = {**COLUMNS, "corpus": ["notes", "labs"] * 6, "step": range(12)}


def renamed(**names):
    return {names.get(name, name): values for name, values in COLUMNS.items()}


def csv(columns, separator=","):
    rows = [map(str, row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(map(separator.join, [columns, *rows])) + "\n"


@pytest.mark.parametrize(
    ("N", "D", "C", "loss"),
    [
        ("params", "tokens", "flops", "val_loss"),
        ("n_params", "n_tokens", "FLOPs", "final_loss"),
        ("Num Params", "train-tokens", "compute", "eval_loss"),
        ("parameters", "Training Tokens", "total_flops", "Validation Loss"),
    ],
)
def test_usual_names_are_found(N, D, C, loss):
    table = laws.read(renamed(N=N, D=D, C=C, loss=loss))
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(getattr(table, name), values)


def test_runs_of_marin_are_read_from_weights_and_biases():
    """Levanter's names in the summary of a run; its GFLOPs are no FLOPs, and its bits a byte no nats a token."""
    run = {"N": "parameter_count", "D": "throughput/total_tokens", "loss": "eval/loss"}
    table = {theirs: COLUMNS[ours] for ours, theirs in run.items()}
    table |= {"Name": ["isoflop"] * 12, "train/loss": [9.0] * 12, "eval/paloma/c4_en/bpb": [0.9] * 12}
    table |= {"throughput/total_gflops": [c / 1e9 for c in COLUMNS["C"]]}
    with pytest.raises(UserError, match=r"no column 'C' for C.*if C = 6ND, --columns=C=6ND"):
        laws.read(table)
    read = laws.read(table, {"C": "6ND"})
    assert (read.N.tolist(), read.D.tolist(), read.loss.tolist()) == tuple(COLUMNS[name] for name in run)
    other = laws.read({**table, "eval/paloma/c4_en/loss": [3.0] * 12}, {"C": "6ND", "loss": "eval/paloma/c4_en/loss"})
    assert set(other.loss) == {3.0}


def test_last_rows_of_the_olmo_ladder_are_read():
    """With N and D beside them, which its files, one a run, do not have."""
    ladder = {name: COLUMNS[name] for name in ("N", "D")}
    ladder |= {"_step": [200] * 12, "eval/c4_en-validation/CrossEntropyLoss": COLUMNS["loss"]}
    ladder |= {"eval/pile-validation/CrossEntropyLoss": [9.0] * 12}
    ladder |= {"learning_rate_peak": [0.00097] * 12, "batch_size_in_tokens": [524_288] * 12}
    read = laws.read(ladder, {"C": "6ND", "loss": "eval/c4_en-validation/CrossEntropyLoss"})
    assert read.loss.tolist() == COLUMNS["loss"] and set(read.batch) == {524_288} and set(read.lr) == {0.00097}


def test_what_may_be_two_columns_is_asked():
    two = {**renamed(N="params"), "n_params": [2 * n for n in COLUMNS["N"]]}
    with pytest.raises(UserError, match=r"N may be 'params' or 'n_params': say which with --columns=N=params"):
        laws.read(two)
    assert laws.read(two, {"N": "n_params"}).N[0] == 2 * COLUMNS["N"][0]
    same = {**renamed(N="params"), "n_params": COLUMNS["N"]}
    assert laws.read(same).N.tolist() == COLUMNS["N"]
    assert laws.read({**COLUMNS, "params": [1] * 12}).N.tolist() == COLUMNS["N"]  # ours is ours
    both = {**COLUMNS, "val_loss": [2 * x for x in COLUMNS["loss"]]}  # but whose loss is `loss`?
    with pytest.raises(UserError, match=r"loss may be 'loss' or 'val_loss': say which with --columns=loss=loss"):
        laws.read(both)
    assert laws.read(both, {"loss": "loss"}).loss.tolist() == COLUMNS["loss"]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_separators(tmp_path, separator, suffix):
    path = tmp_path / f"runs.{suffix}"
    path.write_text(csv(COLUMNS, separator))
    assert laws.read(str(path)).loss.tolist() == COLUMNS["loss"]


@pytest.mark.parametrize("value", [[{name: row[name] for name in COLUMNS} for row in ROWS], COLUMNS])
def test_json(tmp_path, value):
    (tmp_path / "runs.json").write_text(json.dumps(value))
    assert laws.read(tmp_path / "runs.json").loss.tolist() == COLUMNS["loss"]
    for bad, message in (
        ("[1]", "neither an array"),
        ("3", "neither an array"),
        ("[", "not JSON"),
        ("[" * 99_999, "not JSON that"),
    ):
        (tmp_path / "runs.json").write_text(bad)
        with pytest.raises(UserError, match=message):
            laws.read(tmp_path / "runs.json")


def test_a_data_frame_is_columns_with_names():
    class Frame(dict):
        """As pandas and polars have it: iterated it gives names, indexed by them columns."""

    assert len(laws.read(Frame({name: np.array(values) for name, values in COLUMNS.items()}))) == 12
    with pytest.raises(UserError, match="'D' has 1 values and 'N' 12"):
        laws.read({**COLUMNS, "D": [1.0]})
    with pytest.raises(UserError, match="is no column"):
        laws.read({**COLUMNS, "D": 1.0})


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("corpus=notes", range(0, 12, 2)), ("corpus != notes", range(1, 12, 2)), ("step<3", range(3)),
        ("step >= 1e1", (10, 11)), (["corpus=labs", "step<=3"], (1, 3)), ("step=4.0", (4,)),
    ],
)  # fmt: skip
def test_where(where, rows):
    assert laws.read(CORPORA, where=where).loss.tolist() == [COLUMNS["loss"][i] for i in rows]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("corpus", "give column=value"), ("=3", "give column=value"), ("corpora=notes", "no column 'corpora'"),
        ("corpus<notes", "'notes' is no number"), ("corpus=x", "no row is left by --where=corpus=x; 'corpus' is notes"),
    ],
)  # fmt: skip
def test_where_that_cannot_be(where, message):
    with pytest.raises(UserError, match=message):
        laws.read(CORPORA, where=where)


def test_groups(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(csv(CORPORA))
    found = readers.read_groups(path, "corpus", where=["step<9"])
    assert {name: len(table) for name, table in found.items()} == {"notes": 5, "labs": 4}
    assert found["labs"].source == "runs.csv, corpus labs"
    with pytest.raises(UserError, match="--group_by=corpora: the table has no column"):
        readers.read_groups(path, "corpora")


def units(rows=ROWS, **factors):
    return [{**row, **{name: row[name] * by for name, by in factors.items()}} for row in rows]


@pytest.mark.parametrize(
    ("rows", "code", "many"),
    [
        (units(C=100), "units", 1),
        (units(ROWS[:3], C=100) + ROWS[3:], "units", 3),
        (units(N=1e-6, C=1e-6), "units", 1),
        ([{**row, "loss": np.exp(row["loss"]) + 5} for row in ROWS], "perplexity", 1),
        (ROWS, "", 0),
        (units(N=1.5, C=1.5), "", 0),
    ],
    ids=["C of all", "C of some", "N in millions", "perplexity", "as it should be", "larger"],
)
def test_columns_that_mean_something_else_take_support_away(rows, code, many):
    table = from_rows(rows, source="x")
    notes = [note for note in quality.check(table, Options(draws=20)) if note.code in quality.GRAVE]
    assert [note.code for note in notes] == [code] * many
    assert bool(quality.grave(notes)) == bool(many)


def test_a_doubt_reaches_every_word_of_a_study():
    """One budget's word, the laws', a parameter's, the profiles' and the planner's."""
    rows = simulated.rows(budgets=4, sizes=7, seeds=1, noise=0.001)
    for factor, word in ((1, SUPPORTED), (100, DOUBTFUL)):
        found = results.to_json(results.fit(from_rows(units(rows, C=factor), source="x"), Options(draws=40)))
        text = json.dumps(found)
        assert (text.count(f': "{SUPPORTED}"') > 0, text.count(f': "{DOUBTFUL}"') > 0) == (factor == 1, factor == 100)
        assert found["isoflop"]["budgets"][1]["word"] == found["verdicts"]["a"]["word"] == word
        assert ("100 times" in found["options"]["doubt"]) == (factor == 100)


def test_words_are_found_wherever_they_stand():
    told = {"words": [{"word": SUPPORTED, "reason": ""}], "other": (Verdict(SUPPORTED, ""), 3), "word": "extrapolated"}
    assert doubted(told, "why") == {
        "words": [{"word": DOUBTFUL, "reason": "why"}],
        "other": (Verdict(DOUBTFUL, "why"), 3),
        "word": "extrapolated",
    }
    same = {"word": "extrapolated", "rows": [1, 2]}
    assert doubted(same, "why") is same


def fitted(rows, draws=60, **options):
    return laws.fit(from_rows(rows, source="made up"), draws=draws, **options)


def test_a_law_without_exponents_is_printed():
    rows = simulated.rows(budgets=3, sizes=5, seeds=1, shift=-5, noise=0.001)
    found = fitted([{**r, "C": r["C"] * (1 + 1e4 / r["N"])} for r in rows])
    assert found.to_json()["laws"]["chinchilla"]["parameters"]["a"] is None
    assert "a \N{EN DASH}" in repr(found)


def test_a_forecast_is_supported_among_the_runs_alone():
    rows = simulated.rows(budgets=5, sizes=6, seeds=1, noise=0.002, decades=2.0)
    found, N, D = fitted(rows), rows[14]["N"], rows[14]["D"]
    assert found.forecast(N, D).word == SUPPORTED
    for N_factor, D_factor in ((1e4, 1e-4), (1e-4, 1e4), (100, 100)):
        assert found.forecast(N * N_factor, D * D_factor).word == EXTRAPOLATED


def test_new_tokens_are_not_told_of_by_runs_that_saw_theirs_again():
    rows = simulated.rows(budgets=5, sizes=6, seeds=1, noise=0.002, decades=2.0)
    middle = float(np.sqrt(rows[0]["C"] * rows[-1]["C"]))
    few = sorted(r["D"] for r in rows)[3]
    once, again = (fitted([{**r, "unique_tokens": U} for r in rows]) for U in (10 * max(r["D"] for r in rows), few))
    assert once.optimum(middle).word == SUPPORTED
    told = again.optimum(middle)
    assert told.word == EXTRAPOLATED and "new tokens" in told.reason
    assert again.plan(middle).words["loss"].word == SUPPORTED  # of the same tokens


def test_data_without_a_limit_and_data_that_are_none():
    rows = simulated.rows(budgets=5, sizes=6, seeds=1, noise=0.002, decades=2.0)
    middle = float(np.sqrt(rows[0]["C"] * rows[-1]["C"]))
    runs = {"unique_tokens": 2e6, "patients": 800, "passes": 1.0}
    recorded, plain = fitted([{**r, **runs} for r in rows]), fitted(rows)
    assert recorded.plan(middle).unique_tokens == recorded.plan(middle, 800).unique_tokens == 2e6
    assert recorded.plan(middle).most_passes == max(recorded.table.passes.max(), 1.0)
    for data in ({"patients": np.inf}, {"unique_tokens": np.inf}):
        assert recorded.plan(middle, **data).unique_tokens == plain.plan(middle).unique_tokens == np.inf
    for data, said in (({"patients": 0}, "patients=0"), ({"patients": 9, "unique_tokens": 9}, "not both")):
        with pytest.raises(UserError, match=said):
            recorded.plan(middle, **data)
    with pytest.raises(UserError, match="give unique_tokens"):
        plain.plan(middle, patients=9)


def test_a_doubt_reaches_plans_of_a_law_that_is_not_told():
    rows = simulated.rows(budgets=5, sizes=6, seeds=1, noise=0.002, decades=2.0)
    found = fitted([{**r, "N": 1e3 * r["N"], "D": r["D"] / 1e3} for r in rows], wide=1e-4)  # D in thousands
    middle = float(np.sqrt(rows[0]["C"] * rows[-1]["C"]))
    assert not found.law.verdict.told and found.doubts
    assert found.optimum(middle).word == found.plan(middle).words["N"].word == DOUBTFUL


@pytest.mark.filterwarnings("error")
def test_seeds_and_checkpoints_that_hang_together_leave_a_law():
    """Seven sizes of two seeds and six checkpoints are 42 cells, of which a bootstrap may draw seven pieces."""
    law, rng, rows = simulated.loss, np.random.default_rng(0), []
    for N in np.geomspace(1e5, 1e7, 7):
        for s in range(2):
            for D in np.geomspace(1e7, 1e9, 6):
                loss = law(N, D) * np.exp(0.002 * rng.standard_normal())
                rows.append({"N": N, "D": D, "C": 6 * N * D, "loss": loss, "run": f"{N:.3g}-{s}", "seed": s})
    found = fitted(rows, draws=40)
    assert np.isfinite(found.law.intervals["alpha"]).all() and found.to_json()["laws"]["chinchilla"]["runs"] == 42
    # Of four pieces there is a law and no interval.
    few = fitted([r for r in rows if r["N"] < 2e6], draws=40)
    assert np.isnan(few.law.intervals["alpha"]).all() and not few.law.verdict.told
    with pytest.raises(UserError, match="needs 8 cells or more, of several N and several D"):
        _ = fitted(rows[:6]).law


def test_few_draws_tell_no_interval_anywhere():
    rows = simulated.rows(budgets=5, sizes=6, seeds=1, noise=0.002, decades=2.0)
    found = fitted(rows, draws=10)
    assert np.isnan(found.forecast(rows[14]["N"], rows[14]["D"]).intervals["loss"]).all()
    said = json.dumps(found.to_json())
    assert "too few for" in said and "0\u00a0% of the bootstrap" not in said


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda N, D: 3 + 0 * N, marks=pytest.mark.nightly),
        lambda N, D: 1 + 0.1 * np.log(N * D),
        lambda N, D: 1e-9 * N,
    ],
)
def test_losses_that_no_law_of_training_has_end_in_words_and_no_warning(loss):
    rows = [{**r, "loss": float(loss(r["N"], r["D"]))} for r in simulated.rows(budgets=3, sizes=4, seeds=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fitted(rows, draws=20)
        assert repr(found) and found.to_json()


def test_numbers_of_an_array_that_are_not_known():
    table = laws.read({**COLUMNS, "batch": np.array([np.nan, *range(1, 12)])})
    assert np.isnan(table.batch[0]) and table.batch[1] == 1
    with pytest.raises(UserError, match="loss is not finite"):
        laws.read({**COLUMNS, "loss": np.array([np.nan, *COLUMNS["loss"][1:]])})


def test_the_import_is_light_and_help_teaches():
    code = "import sys, ehr_scaling.analysis as laws; assert not {'numpy', 'scipy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert callable(laws.compare) and callable(__import__("ehr_scaling.analysis.compare").analysis.compare)
    for name in laws.__all__:
        assert len(getattr(laws, name).__doc__) > 200
    with pytest.raises(UserError, match="'drawn' is no option of the analysis; choose from draws"):
        laws.fit(COLUMNS, drawn=3)
