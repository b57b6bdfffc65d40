import csv
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import recipe as table

from configs import base
from ehr_scaling.analysis.compare import comparable, comparison, frontiers, loss_to_loss
from ehr_scaling.analysis.compare.comparable import Common
from ehr_scaling.analysis.isoflop import isoflop
from ehr_scaling.analysis.joint import joint_laws
from ehr_scaling.analysis.joint.optimum import cost_of, optimum
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import SUPPORTED, UNIDENTIFIED
from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells
from ehr_scaling.training import checkpoint

FEW = Options(draws=100)


@pytest.mark.parametrize(("sizes", "kind"), [(6, frontiers.OPTIMA), (3, "joint law")])
def test_a_known_multiplier_is_recovered_by_optima_and_by_a_joint_law(sizes, kind):
    held = []
    for seed in range(2):
        m = comparison.multiplier(table(0.5, seed, sizes=sizes), table(1, 50 + seed, sizes=sizes), FEW)
        assert m.kind.startswith(kind) and m.verdict.word == SUPPORTED
        assert m.value == pytest.approx(0.5, rel=0.12) and m.interval[1] < 1
        assert "A needs less compute" in m.verdict.reason
        held += [row["low"] <= 0.5 <= row["high"] for row in m.rows]
    assert np.mean(held) >= 0.8


def test_half_of_what_laws_say_otherwise_is_in_the_interval_of_a_joint_law():
    """Of nearly exact losses, draws of one law know nothing of what another would say."""
    sides = []
    for multiple in (0.5, 1.0):
        rows = simulated.rows(budgets=4, sizes=3, seeds=4, noise=0, decades=2.0)
        rng = np.random.default_rng(int(2 * multiple))
        for r in rows:
            N, D = r["N"] / multiple**0.5, r["D"] / multiple**0.5
            r["loss"] = (1.2 + (40 * N**-0.5 + 150 * D**-0.45) ** 0.4) * np.exp(2e-4 * rng.standard_normal())
        sides.append(from_rows(rows, source="made up"))
    m = comparison.multiplier(*sides, FEW)
    assert m.kind.startswith("joint law")
    half = max(abs(np.log(value / m.value)) for value in m.by_law.values()) / 2
    reach = np.log([m.value / m.interval[0], m.interval[1] / m.value])
    assert half > 0.01 and (reach >= half * (1 - 1e-9)).all() and reach.min() < 3 * half


def test_of_laws_that_fit_alike_the_simpler_is_taken():
    few, many = (
        [SimpleNamespace(residuals=np.zeros(30), objective=0.01, form=joint_laws.FORMS[name])] * 2
        for name in ("chinchilla", "coupled")
    )
    assert comparison._criterion(few) < comparison._criterion(many)
    better = [replace_in(law, objective=0.01 * np.exp(-3 / 30)) for law in many]
    assert comparison._criterion(better) < comparison._criterion(few)


def replace_in(namespace, **changes):
    return SimpleNamespace(**{**vars(namespace), **changes})


def test_draws_of_two_tables_are_not_paired_by_accident_and_wide_ones_tell_nothing():
    own = table(1, 0, sizes=3)
    m = comparison.multiplier(own, own, FEW)
    assert m.value == pytest.approx(1) and m.interval[0] < 0.99 and m.interval[1] > 1.01
    losses = [row["loss"] for row in m.rows]
    assert losses == sorted(losses, reverse=True) and m.value == m.rows[-1]["multiplier"]
    for high, word in ((9.9, SUPPORTED), (10.1, UNIDENTIFIED)):
        assert comparison._judge(replace(m, interval=(1.0, high)), FEW).word == word


def test_the_least_loss_between_optima_is_as_unsure_as_they_are():
    fits = isoflop.fit(table(1, 0), FEW)
    wide = [replace(b, told=b.L + 3 * (b.told - b.L)) for b in fits]
    C = np.sqrt(fits[1].C * fits[2].C)
    plain, wider = (np.std(frontiers.of_optima(each).curve(np.array([C]))[1:]) for each in (fits, wide))
    assert wider == pytest.approx(3 * plain, rel=0.05)


def test_the_least_loss_at_a_compute_is_that_of_the_best_size_under_counted_compute():
    rows = [{**r, "C": r["C"] * (1 + 3e4 / r["N"] ** 0.8)} for r in simulated.rows(budgets=5, seeds=1, decades=2.5)]
    counted = from_rows(rows, source="small models spend most on the head")
    law = joint_laws.fit("chinchilla", counted.N, counted.D, counted.loss, None, Options(draws=0))
    (side, _) = frontiers.of_laws([law, law], (counted, counted))
    C = np.geomspace(*side.C, 5)[1:4]
    expected = [optimum(law, each, cost_of(counted)).L for each in C]
    np.testing.assert_allclose(side.curve(C)[0], expected, rtol=1e-3)


def test_the_same_recipe_is_worth_the_same():
    found = comparison.compare(Common(table(1, 0), table(1, 1), "token"), FEW)
    low, high = found.multiplier.interval
    assert low < 1 < high and "not told from equal" in found.multiplier.verdict.reason
    low, high = found.paired.interval
    assert low < 0 < high and "which is lower is not told" in found.paired.verdict.reason
    same = comparison.compare(Common(table(1, 0), table(1, 0), "token"), FEW)
    assert same.paired.percent == 0 and same.multiplier.value == pytest.approx(1)


def test_swapping_the_sides_inverts_the_numbers():
    a, b = table(0.5, 0), table(1, 1)
    one, other = comparison.compare(Common(a, b, "token"), FEW), comparison.compare(Common(b, a, "token"), FEW)
    assert one.multiplier.value * other.multiplier.value == pytest.approx(1)
    assert (1 + one.paired.percent / 100) * (1 + other.paired.percent / 100) == pytest.approx(1)
    assert one.paired.lower + other.paired.lower == one.paired.cells == 30


@given(st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=2, deadline=None)
def test_units_of_loss_and_compute_do_not_matter(by_loss, by_C):
    few = Options(draws=40)
    a, b = (t.take(t.seed == 0) for t in (table(0.5, 0, budgets=3), table(1, 1, budgets=3)))
    one = comparison.multiplier(a, b, few)
    a, b = (replace(t, loss=by_loss * t.loss, C=by_C * t.C, budgets=by_C * t.budgets) for t in (a, b))
    other = comparison.multiplier(a, b, few)
    assert other.value == pytest.approx(one.value, rel=1e-3) and other.verdict.word == one.verdict.word
    assert other.interval == pytest.approx(one.interval, rel=1e-2)


def test_a_paired_difference_counts_runs_and_not_checkpoints():
    rng = np.random.default_rng(0)
    rows = [
        {"run": f"r{k // 10}", "N": 1e5 * (1 + k // 10), "D": 1e7 * (1 + k), "C": 6e12 * (1 + k), "loss": 3.0}
        for k in range(40)
    ]
    a = from_rows(rows, source="a")
    of_run = np.repeat(0.02 * rng.standard_normal(4), 10)
    b = replace(a, loss=a.loss * np.exp(0.05 + of_run))
    found = comparison.compare(Common(a, b, "token"), FEW).paired
    mean, se = of_run[::10].mean() + 0.05, of_run[::10].std(ddof=1) / 2
    assert found.percent == pytest.approx(100 * np.expm1(-mean))
    assert found.interval == pytest.approx([100 * np.expm1(-mean - side * 3.1824 * se) for side in (1, -1)], rel=1e-3)
    few = comparison.compare(Common(a.take(a.run == "r0"), b, "token"), FEW)
    assert few.paired.verdict.word == UNIDENTIFIED and np.isnan(few.paired.interval[0])


def test_seeds_of_a_cell_are_no_evidence_of_their_own():
    """Cells of two equal recipes that lie 1 % apart: ten seeds of little noise say no more than two."""
    rng = np.random.default_rng(0)
    apart = 0.01 * rng.standard_normal((2, 12))
    width, held = {}, []
    for seeds in (2, 10):
        sides = []
        for k in range(2):
            rows = [
                {"N": 1e5 * 2.0 ** (i % 4), "D": 1e7 * 2.0 ** (i // 4), "seed": s, "loss": 3 - 0.1 * (i % 4)}
                for i in range(12)
                for s in range(seeds)
            ]
            for j, r in enumerate(rows):
                r["C"] = 6 * r["N"] * r["D"]
                r["loss"] *= np.exp(apart[k, j // seeds] + 1e-4 * rng.standard_normal())
            sides.append(from_rows(rows, source="made up"))
        found = comparison.compare(Common(*sides, "token"), FEW)
        width[seeds] = np.ptp(found.paired.interval)
        held.append(found.paired.interval[0] < 0 < found.paired.interval[1])
        assert found.paired.cells == 12
        assert len(np.unique(loss_to_loss.matched(*sides).cluster)) == 12
    assert width[10] == pytest.approx(width[2], rel=0.02) and all(held)


def test_equal_compute_pairs_what_equal_tokens_do_not():
    a, b = table(1, 0), table(1, 1)
    found = comparison.compare(Common(replace(a, D=1.7 * a.D), b, "patient"), FEW)
    assert found.paired.at == "N and C" and found.paired.cells == len(a) / 2  # of two seeds


def test_what_cannot_be_told_is_unidentified():
    better = replace(table(1, 0), loss=table(1, 0).loss / 10)
    apart = comparison.compare(Common(better, table(1, 1), "token"), FEW)
    assert apart.multiplier.verdict.word == UNIDENTIFIED and "do not overlap" in apart.multiplier.verdict.reason
    assert apart.paired.percent < -85  # what is told at equal cells stays told
    small = table(1, 0).take(np.arange(4))
    few = comparison.compare(Common(small, table(1, 1), "token"), FEW)
    assert few.multiplier.verdict.word == UNIDENTIFIED and "too few" in few.multiplier.verdict.reason
    alone = comparison.compare(Common(replace(small, N=3 * small.N), table(1, 1), "token"), FEW)
    assert alone.paired.cells == 0 and alone.paired.verdict.word == UNIDENTIFIED
    equal = replace(table(1, 0), loss=np.full(60, 3.0))
    for found in (apart, few, alone, comparison.compare(Common(equal, equal, "token"), FEW)):
        record = json.dumps(comparison.to_json(found), allow_nan=False)
        assert json.loads(record)["multiplier"]["verdict"]["word"] == UNIDENTIFIED
        assert "unidentified" in comparison.summary(found)


def test_only_runs_that_a_law_is_fitted_to_are_compared():
    rows = table(1, 0).rows()
    hot = [{**r, "run": f"hot {r['run']}", "phase": "hot", "loss": 9.0} for r in rows[:5]]
    mixed = from_rows([{**r, "phase": "cooled"} for r in rows] + hot, source="mixed")
    found = comparison.compare(Common(mixed, table(1, 0), "token"), FEW)
    assert found.paired.percent == pytest.approx(0) and len(found.tables[0]) == 60
    assert {note["code"] for note in comparison.to_json(found)["a"]["left_out"]} == {"hot"}


# Units


@pytest.mark.parametrize(("a", "b", "told"), [(90.0, 100.0, True), (100.0, 90.0, True), (100.0, 100.5, False)])
def test_tokens_of_another_number_of_events_are_told(a, b, told):
    made = [comparable.Measured("t", "e", {"tokens": 1e3, "events": events}) for events in (a, b)]
    assert bool(comparable._other_events(made)) == told


def write(path, rows):
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(a, b, *asked):
    common = comparable.read((a, b), *asked)
    return common.a, common.b, common.unit


ROWS = [{"N": 1e5 * (1 + k), "D": 1e7, "C": 6e12 * (1 + k), "loss": 3.0 - 0.1 * k} for k in range(4)]


def test_tables_are_compared_by_a_column_that_both_have(tmp_path):
    a = write(
        tmp_path / "a.csv", [{**r, "tokens_per_event": 2.0, "tokens_per_day": 30 + k} for k, r in enumerate(ROWS)]
    )
    b = write(tmp_path / "b.csv", [{**r, "loss_per_event": 5.0, "tokens_per_day": 10.0} for r in ROWS])
    one, other, unit = read(a, b)
    assert unit == "event"
    np.testing.assert_allclose(one.loss, 2 * (3.0 - 0.1 * np.arange(4)))
    np.testing.assert_allclose(other.loss, 5.0)
    one, other, unit = read(a, b, "day")
    np.testing.assert_allclose(one.loss, (30 + np.arange(4)) * (3.0 - 0.1 * np.arange(4)))
    np.testing.assert_allclose(other.loss, 10 * (3.0 - 0.1 * np.arange(4)))
    one, _, _ = read(a, b, "token")
    np.testing.assert_allclose(one.loss, 3.0 - 0.1 * np.arange(4))
    with pytest.raises(UserError, match="--unit=patient: not known for both"):
        comparable.read((a, b), "patient")
    lines = tmp_path / "c.jsonl"
    lines.write_text("\n".join(json.dumps({**r, "loss_per_event": 4.0}) for r in ROWS))
    assert comparable.read((a, lines)).unit == "event"
    bad = write(tmp_path / "bad.csv", [{**r, "tokens_per_event": -1} for r in ROWS])
    with pytest.raises(UserError, match=r"bad\.csv row 2: tokens_per_event is -1"):
        comparable.read((a, bad))


def test_rows_are_chosen_in_both_tables_and_bad_ones_left_out(tmp_path):
    """The loss and the tokens a unit are of one row, whichever rows are left."""
    rows = [{**r, "corpus": "notes", "val": r["loss"], "tokens_per_event": 2.0 + k} for k, r in enumerate(ROWS)]
    for row in rows:
        del row["loss"]
    others = [{**row, "corpus": "labs", "val": 9.0} for row in rows]
    a = write(tmp_path / "a.csv", others + rows)
    b = write(tmp_path / "b.csv", [*rows[:1], {**rows[1], "tokens_per_event": "x"}, *rows[2:], *others])
    asked = {"columns": {"loss": "val"}, "where": ["corpus=notes", "N<4e5"]}
    with pytest.raises(UserError, match=r"b\.csv row 3: tokens_per_event is not a number"):
        comparable.read((a, b), **asked)
    common = comparable.read((a, b), **asked, drop_bad_rows=True)
    np.testing.assert_allclose(common.a.loss, [2 * 3.0, 3 * 2.9, 4 * 2.8])
    np.testing.assert_allclose(common.b.loss, [2 * 3.0, 4 * 2.8])
    assert len(common.b.notes) == 1
    with pytest.raises(UserError, match="no row is left by --where=corpus=genes"):
        comparable.read((a, b), columns={"loss": "val"}, where=["corpus=genes"])


def test_what_is_for_tables_is_refused_of_a_directory(tmp_path):
    a, b = study(tmp_path / "a", "one"), study(tmp_path / "b", "two", OTHER)
    table = write(tmp_path / "t.csv", [{**r, "loss": r["loss"], "n": r["N"], "tokens_per_event": 2.0} for r in ROWS])
    for asked, flags in (({"where": ["N>1"]}, "--where"), ({"columns": {"N": "n"}}, "--columns")):
        with pytest.raises(UserError, match=f"^{flags}: for a table in a file, which .*runs, a directory of runs"):
            comparable.read((a, b), **asked)
    with pytest.raises(UserError, match=r"^--where: for a table"):  # else A alone would be chosen from
        comparable.read((table, b), where=["N>1"])
    assert comparable.read((table, b), columns={"N": "n"}).unit == "event"


def test_losses_a_token_are_not_compared_blindly(tmp_path):
    a, b = write(tmp_path / "a.csv", ROWS), write(tmp_path / "b.csv", ROWS)
    with pytest.raises(UserError, match="losses a token of two vocabularies do not compare") as error:
        comparable.read((a, b))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"--runs=.*absent\.csv: no such file"):
        comparable.read((a, tmp_path / "absent.csv"))


COUNTS = {"patients": 50, "tokens": 50 * 200, "events": 50 * 80, "patient_days": 50 * 1000.0}


def study(folder, vocabulary, counts=COUNTS, events="e", recorded=True, beside=True):
    """recorded: whether its runs say themselves what they were measured on."""
    own = {"timelines_fingerprint": vocabulary, "events_fingerprint": events, **counts} if recorded else None
    rows = [{**r, "cell": f"c{k}", "size": "s", "seed": 0, "measured_on": own} for k, r in enumerate(ROWS)]
    simulated.write_runs(folder / "runs", rows)
    if beside:
        (folder / "timelines").mkdir()
        record = {"inputs": {"events": events}, "fingerprint": vocabulary, "summary": {"validation": counts}}
        (folder / "timelines" / "artifact.json").write_text(json.dumps(record))
    return folder / "runs"


OTHER = {**COUNTS, "tokens": 50 * 300}
OLD = ("patients", "tokens")  # what a version that did not count events and days knew of a split


def old(counts):
    return {name: counts[name] for name in OLD}


@pytest.mark.parametrize(("recorded", "beside"), [(True, False), (False, True)], ids=["by the runs", "by timelines"])
def test_directories_are_compared_by_what_they_were_measured_on(tmp_path, recorded, beside):
    how = {"recorded": recorded, "beside": beside}
    a, b = study(tmp_path / "a", "one", COUNTS, **how), study(tmp_path / "b", "two", OTHER, **how)
    for unit, tokens in (("auto", 2.5), ("event", 2.5), ("day", 0.2), ("patient", 200)):
        common = comparable.read((a, b), unit)
        assert common.unit == ("event" if unit == "auto" else unit) and not common.notes
        np.testing.assert_allclose(common.a.loss, tokens * (3.0 - 0.1 * np.arange(4)))
        np.testing.assert_allclose(common.b.loss, 1.5 * common.a.loss)
    again = study(tmp_path / "c", "one", COUNTS, **how)
    one, _, unit = read(a, again)
    assert unit == "token" and one.loss.max() == 3.0
    elsewhere = study(tmp_path / "d", "three", COUNTS, events="others", **how)
    with pytest.raises(UserError, match="nothing tells another unit"):
        comparable.read((a, elsewhere))
    for unit in comparable.UNITS:
        with pytest.raises(UserError, match=f"--unit={unit}: not known for both"):
            comparable.read((a, elsewhere), unit)
    with pytest.raises(UserError, match="--unit=token: the timelines of"):
        comparable.read((a, b), "token")


def test_what_the_runs_say_goes_before_what_lies_beside_them(tmp_path):
    a, b = study(tmp_path / "a", "one"), study(tmp_path / "b", "two", OTHER)
    record = {"inputs": {"events": "others"}, "fingerprint": "four", "summary": {}}
    (tmp_path / "b" / "timelines" / "artifact.json").write_text(json.dumps(record))
    np.testing.assert_allclose(comparable.read((a, b)).b.loss[0], 9.0 * 50 * 100 / (50 * 80))
    rows = [
        {**ROWS[0], "cell": "c9", "size": "s", "seed": 0, "measured_on": {"timelines_fingerprint": "three", **COUNTS}}
    ]
    simulated.write_runs(b, rows)
    with pytest.raises(UserError, match="2 different timelines") as error:
        comparable.read((a, b))
    assert "\n" not in str(error.value)


def test_old_directories_keep_their_unit_and_say_what_they_lack(tmp_path):
    a = study(tmp_path / "a", "one", old(COUNTS), recorded=False)
    b = study(tmp_path / "b", "two", OTHER)
    common = comparable.read((a, b))
    assert common.unit == "patient" and list(common.tokens_per) == ["patient"]
    np.testing.assert_allclose(common.a.loss / 200, common.b.loss / 300)
    assert len(common.notes) == 1 and "no loss per event or day" in common.notes[0] and str(a) in common.notes[0]
    assert common.notes[0] in comparison.summary(comparison.compare(common, FEW)).splitlines()
    with pytest.raises(UserError, match=r"--unit=event: not known for both.*did not count") as error:
        comparable.read((a, b), "event")
    assert "\n" not in str(error.value)


def test_the_difference_is_told_in_every_unit(tmp_path):
    counts = {**OTHER, "events": 50 * 100, "patient_days": 50 * 1000.0}
    a, b = study(tmp_path / "a", "one"), study(tmp_path / "b", "two", counts)
    each = {unit: comparison.compare(comparable.read((a, b), unit), FEW) for unit in comparable.UNITS}
    for found in each.values():
        for unit, own in each.items():
            assert found.in_units[unit]["percent"] == pytest.approx(own.paired.percent)
    record = comparison.to_json(each["day"])
    assert record["units"]["event"] == pytest.approx({"tokens_a": 2.5, "tokens_b": 3.0, "percent": 100 * (2.5 / 3 - 1)})
    assert "20.0\N{NO-BREAK SPACE}% apart" in record["notes"][0] and "4,000 events" in record["notes"][0]
    assert "the same in every unit: −16.67 % an event (2.5 tokens of A, 3 of B)" in comparison.summary(each["day"])


def test_runs_carry_what_they_were_measured_on_and_keep_their_id():
    config = base.get_config()
    train = {"real_tokens": 1_000_000, "patients": 5_000, "phases": [{"sequences": 8_000}]}
    summary = {"vocab_size": 250, "context": 128, "splits": {"train": train}}
    before = {"fingerprint": "0123456789abcdef", "summary": summary}
    after = {**before, "summary": {**summary, "measured_on": {"timelines_fingerprint": "one", **COUNTS}}}
    point, about = {"budget": 1e11, "size": "25k", "seed": 0}, {"data": "made up", "generated": True}
    earlier, now = (cells.solve(config, point, packed, about) for packed in (before, after))
    assert now["measured_on"] == after["summary"]["measured_on"] and earlier["measured_on"] is None
    assert now["id"] == earlier["id"]
    saved = {name: value for name, value in earlier.items() if name != "measured_on"}
    checkpoint.check_config(saved, now, Path("runs"))  # a run that an earlier version began goes on


@pytest.fixture(scope="module")
def porian(real_data):
    path = real_data / "laws" / "porian_isoflop_long.csv"
    if not path.is_file():
        pytest.skip(f"no table of real runs at {path}: set EHR_SCALING_TEST_DATA")
    found = defaultdict(list)
    for row in csv.DictReader(path.open()):
        if row["file"] == "summary_df":
            found[row["config"]].append({name: float(row[name]) for name in ("N", "D", "C", "loss")})
    return {name: from_rows([{**r, "budget": r["C"]} for r in rows], source=name) for name, rows in found.items()}


def best(table):
    """Compute at which the best runs of the budgets reach a loss, no law between."""
    lowest = [table.loss[table.group == g].min() for g in range(len(table.budgets))]
    return lambda loss: np.exp(np.interp(-loss, -np.array(lowest), np.log(table.budgets)))


@pytest.mark.parametrize(
    ("a", "reason"),
    [
        ("rw/base/short/chinchilla/standard/val", "A needs less compute"),  # decay matched to the run's length
        ("rw/tuned/short/const/standard/val", "grows with compute"),  # tuning helps small models most
        ("rw/base/long/kaplan/standard/val", "falls with compute"),  # a long warm-up hurts short runs most
    ],
)
def test_real_recipes_stand_as_their_best_runs_do(porian, a, reason):
    a, b = porian[a], porian["rw/base/short/kaplan/standard/val"]
    m = comparison.multiplier(a, b, FEW)
    assert m.kind == frontiers.OPTIMA and m.verdict.word == SUPPORTED and reason in m.verdict.reason
    off = []
    for row in m.rows[1:]:  # at the highest loss the smallest budgets' best runs are far apart
        off.append(np.log(row["multiplier"] * best(b)(row["loss"]) / best(a)(row["loss"])))
        assert row["low"] < best(a)(row["loss"]) / best(b)(row["loss"]) < row["high"]
    assert np.abs(off).max() < 0.17 and np.abs(off[-1]) < 0.03
