import csv
import json
from pathlib import Path

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.compare import comparable, comparison
from ehr_scaling.analysis.options import Options
from ehr_scaling.configs import base
from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells
from ehr_scaling.training import checkpoint

FEW = Options(draws=100)


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


OLD = ("patients", "tokens")  # what a version that did not count events and days knew of a split
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
    assert now.measured_on == after["summary"]["measured_on"] and earlier.measured_on is None
    assert now.id == earlier.id
    saved = {name: value for name, value in earlier.to_json().items() if name != "measured_on"}
    checkpoint.check_config(saved, now, Path("runs"))  # a run that an earlier version began goes on
