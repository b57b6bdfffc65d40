"""The generated MIMIC-IV release: its files, counts and distributions, and that nothing stops it half-way."""

import csv
import gzip
import hashlib
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.sources import physionet
from ehr_scaling.data.sources.synthetic import mimic as synthetic_mimic
from ehr_scaling.data.sources.synthetic.mimic import csv_text, events, release, stay_tables, stays
from ehr_scaling.errors import UserError

PATIENTS = 1100  # a whole block and a part of the next
FRACTION = PATIENTS / stays.ROWS["patients"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("mimic") / "release"
    return out, synthetic_mimic.write(out, fraction=FRACTION, seed=7)


def read(out: Path, name: str) -> bytes:
    with gzip.open(out / f"{name}.csv.gz") as f:
        return f.read()


def test_row_counts_are_the_fraction_of_mimic_iv(made):
    out, summary = made
    assert summary["patients"] == PATIENTS
    for name, rows in summary["rows"].items():
        assert rows == pytest.approx(FRACTION * stays.ROWS[name.partition("/")[2]], rel=0.01), name
        assert read(out, name).count(b"\n") == rows + 1, name


def test_every_reader_reads_the_members_as_one_file(made):
    out, summary = made
    for name, rows in summary["rows"].items():
        path = out / f"{name}.csv.gz"
        found = (
            duckdb.connect()
            .execute(f"SELECT count(*) FROM read_csv('{path}', all_varchar=true, strict_mode=true)")
            .fetchall()
        )
        assert found == [(rows,)], name
        assert pyarrow.csv.read_csv(path).num_rows == rows, name
        if rows < 100_000:
            with gzip.open(path, "rt", encoding="utf-8", newline="") as f:
                lines = list(csv.reader(f))
            assert len(lines) == rows + 1
            assert {len(line) for line in lines} == {len(lines[0])}, name


def test_columns_and_formats_are_those_of_the_demo(real_data, made):
    """Whatever has one form in the release (ids, times, flags: never words or amounts) has it here."""
    out, _ = made
    demo = real_data / "physionet" / "files" / "mimic-iv-demo" / "2.2"
    written = [path.relative_to(out).as_posix().removesuffix(".csv.gz") for path in out.glob("*/*.csv.gz")]
    assert set(synthetic_mimic.DEFAULT) < set(written)

    def shape(value: str) -> str:
        return re.sub("[A-Z]", "A", re.sub("[0-9]", "9", value))

    for name in written:
        with gzip.open(demo / f"{name}.csv.gz", "rt", newline="") as f:
            reader = csv.reader(f)
            header, theirs = next(reader), [row for row, _ in zip(reader, range(3000), strict=False)]
        with gzip.open(out / f"{name}.csv.gz", "rt", newline="") as f:
            reader = csv.reader(f)
            assert next(reader) == header, name
            ours = [row for row, _ in zip(reader, range(3000), strict=False)]
        for i, column in enumerate(header):
            if column.endswith(("time", "date", "_id", "dod")) and column not in ("labevent_id", "provider_id"):
                forms = {re.sub(r"-9+$", "-9", re.sub("[A9]{5}$", "A", shape(row[i]))) for row in theirs}
                assert {re.sub(r"-9+$", "-9", re.sub("[A9]{5}$", "A", shape(row[i]))) for row in ours} <= forms | {
                    ""
                }, (name, column)


def test_ids_are_nobodys_in_mimic(made):
    """MIMIC-IV has 10, 20 and 30 million of them; a label of a real patient must find nobody here."""
    out, _ = made
    con = duckdb.connect()
    first = {"subject_id": 40, "hadm_id": 50, "stay_id": 60, "transfer_id": 60}
    seen = set()
    for path in sorted(out.glob("*/*.csv.gz")):
        con.execute(f"CREATE OR REPLACE TABLE t AS FROM read_csv('{path}')")
        for name, *_ in con.execute("DESCRIBE t").fetchall():
            if name in first:
                low, high = con.execute(f"SELECT min({name}), max({name}) FROM t").fetchone()
                assert first[name] * 10**6 <= low <= high < (first[name] + 10) * 10**6, (path.name, name)
                seen.add(name)
    assert seen == set(first)


def test_words_are_those_of_the_release(made):
    out, _ = made
    text = {name: read(out, name).decode() for name in ("hosp/admissions", "hosp/emar", "hosp/drgcodes", "hosp/omr")}
    rows = list(csv.DictReader(text["hosp/emar"].splitlines()))
    administered = np.mean([row["event_txt"] == "Administered" for row in rows])
    assert 0.78 < administered < 0.9
    assert all(row["emar_id"] == f"{row['subject_id']}-{row['emar_seq']}" for row in rows)
    assert len({row["emar_id"] for row in rows}) == len(rows)
    assert {row["drg_type"] for row in csv.DictReader(text["hosp/drgcodes"].splitlines())} == {"HCFA", "APR"}
    for row in csv.DictReader(text["hosp/admissions"].splitlines()):
        assert (row["discharge_location"] == "DIED") == (row["hospital_expire_flag"] == "1") == (row["deathtime"] != "")
    pressures = [row for row in csv.DictReader(text["hosp/omr"].splitlines()) if row["result_name"] == "Blood Pressure"]
    assert all(re.fullmatch(r"\d{2,3}/\d{2,3}", row["result_value"]) for row in pressures)


def test_rows_lie_in_the_stays_they_name(made):
    out, _ = made
    con = duckdb.connect()
    for name in ("patients", "admissions", "labevents", "emar", "prescriptions", "transfers", "diagnoses_icd"):
        con.execute(f"CREATE TABLE {name} AS FROM read_csv('{out}/hosp/{name}.csv.gz')")
    con.execute(f"CREATE TABLE icustays AS FROM read_csv('{out}/icu/icustays.csv.gz')")

    def none(query: str) -> None:
        assert con.execute(f"SELECT count(*) FROM {query}").fetchone() == (0,), query

    for table, time in (("labevents", "charttime"), ("emar", "charttime"), ("icustays", "intime")):
        none(
            f"{table} t JOIN admissions a USING (hadm_id) "
            f"WHERE t.subject_id <> a.subject_id OR {time} < admittime OR {time} > dischtime"
        )
        none(f"{table} t ANTI JOIN admissions USING (hadm_id) WHERE t.hadm_id IS NOT NULL")
        none(f"(SELECT subject_id, lag(subject_id) OVER () AS last FROM {table}) WHERE last > subject_id")
    none(
        "labevents t JOIN admissions a USING (subject_id) "
        "WHERE t.hadm_id IS NULL AND charttime BETWEEN admittime AND dischtime"
    )
    none("labevents JOIN patients USING (subject_id) WHERE charttime > dod + INTERVAL 1 DAY")
    none("labevents t ANTI JOIN patients USING (subject_id)")
    none("(SELECT labevent_id, lag(labevent_id) OVER () AS last FROM labevents) WHERE last >= labevent_id")
    none("(SELECT specimen_id FROM labevents GROUP BY ALL HAVING count(DISTINCT (subject_id, charttime)) > 1)")
    none("(SELECT hadm_id FROM labevents WHERE hadm_id IS NOT NULL GROUP BY ALL HAVING count(DISTINCT subject_id) > 1)")
    none(
        "(SELECT admittime, lag(dischtime) OVER (PARTITION BY subject_id ORDER BY admittime) AS last FROM admissions) "
        "WHERE last > admittime"
    )
    none("admissions WHERE dischtime <= admittime OR edregtime > admittime OR edouttime > dischtime")
    none(
        "icustays i ANTI JOIN transfers t "
        "ON (i.hadm_id, i.intime, i.outtime, first_careunit) = (t.hadm_id, t.intime, t.outtime, careunit)"
    )
    for table, key in (
        ("patients", "subject_id"),
        ("admissions", "hadm_id"),
        ("transfers", "transfer_id"),
        ("icustays", "stay_id"),
    ):
        none(f"(SELECT {key} FROM {table} GROUP BY ALL HAVING count(*) > 1)")


def test_distributions_are_the_published_ones():
    blocks = [stays.block(7, k) for k in range(30)]
    days = np.log(np.concatenate([b.days for b in blocks]))
    assert days.mean() == pytest.approx(1.457, abs=0.02)
    assert days.std() == pytest.approx(1.096, abs=0.02)
    gaps = np.log(np.concatenate([(np.append(b.admit[1:], 0) - b.discharge)[~b.last] for b in blocks]) / csv_text.DAY)
    assert gaps.mean() == pytest.approx(4.202, abs=0.08)
    assert gaps.std() == pytest.approx(2.059, abs=0.1)
    n = len(days)
    assert sum(b.died.sum() for b in blocks) / n == pytest.approx(0.021, rel=0.02)
    assert sum(b.icu.sum() for b in blocks) / n == pytest.approx(0.153, rel=0.01)
    died_in_icu = sum((b.died & b.icu).sum() for b in blocks) / sum(b.icu.sum() for b in blocks)
    assert died_in_icu == pytest.approx(0.117, abs=0.01)


@pytest.mark.nightly
def test_rows_per_admission(tmp_path):
    """p5, median and p95 as counted in MIMIC-IV."""
    published = {
        "hosp/labevents": (11, 84, 583),
        "hosp/emar": (9, 73, 505),
        "hosp/diagnoses_icd": (2, 10, 25),
        "hosp/transfers": (2, 3, 6),
        "hosp/procedures_icd": (1, 2, 8),
    }
    synthetic_mimic.write(tmp_path / "out", fraction=4000 / stays.ROWS["patients"], seed=7, tables=tuple(published))
    for name, expected in published.items():
        counts = (
            duckdb.connect()
            .execute(
                f"SELECT count(*)::DOUBLE FROM read_csv('{tmp_path}/out/{name}.csv.gz') "
                "WHERE hadm_id IS NOT NULL GROUP BY hadm_id"
            )
            .fetchall()
        )
        found = np.quantile(np.array(counts), [0.05, 0.5, 0.95])
        assert np.all(np.abs(found - expected) <= np.maximum(1.01, 0.12 * np.array(expected))), (name, found)


def test_a_smaller_release_is_a_prefix_and_tables_do_not_depend_on_each_other(made, tmp_path):
    out, _ = made
    tables = ("hosp/labevents", "hosp/transfers", "hosp/omr", "hosp/emar", "icu/icustays")
    synthetic_mimic.write(tmp_path / "small", fraction=333 / stays.ROWS["patients"], seed=7, tables=tables)
    for name in tables:
        part = read(tmp_path / "small", name)
        assert len(part) > 1000
        assert read(out, name).startswith(part), name
    assert not (tmp_path / "small" / "hosp" / "prescriptions.csv.gz").exists()


def test_the_seed_decides(tmp_path):
    few = 20 / stays.ROWS["patients"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic_mimic.write(tmp_path / name, fraction=few, seed=seed, tables=("hosp/admissions",))
    texts = [read(tmp_path / name, "hosp/admissions") for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


def test_a_killed_run_goes_on_with_the_parts_that_are_there(made, tmp_path, monkeypatch):
    out, summary = made
    calls: list[int] = []
    block, assemble = release.block, release._assemble

    def counted(seed, k):
        calls.append(k)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return block(seed, k)

    def fails_at_transfers(path, members):
        if path.name.startswith("transfers"):
            raise OSError("killed")
        return assemble(path, members)

    monkeypatch.setattr(release, "block", counted)
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        synthetic_mimic.write(again, fraction=FRACTION, seed=7)
    assert not again.exists()
    monkeypatch.setattr(release, "_assemble", fails_at_transfers)
    with pytest.raises(OSError, match="killed"):
        synthetic_mimic.write(again, fraction=FRACTION, seed=7)
    monkeypatch.setattr(release, "_assemble", assemble)
    assert synthetic_mimic.write(again, fraction=FRACTION, seed=7) == summary
    assert calls == [0, 1, 1]
    manifest = (again / physionet.MANIFEST).read_text()
    assert manifest == (out / physionet.MANIFEST).read_text()
    assert not list(again.glob(".*"))


def test_processes_write_what_one_does(made, tmp_path):
    out, _ = made
    tables = ("hosp/patients", "hosp/diagnoses_icd")
    synthetic_mimic.write(tmp_path / "two", fraction=FRACTION, seed=7, tables=tables, workers=2)
    for name in tables:
        assert (tmp_path / "two" / f"{name}.csv.gz").read_bytes() == (out / f"{name}.csv.gz").read_bytes()


def test_the_manifest_lists_every_file_and_says_that_patients_are_generated(made):
    out, _ = made
    listed = dict(reversed(line.split()) for line in (out / physionet.MANIFEST).read_text().splitlines())
    there = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(listed) == there - {physionet.MANIFEST, "artifact.json"}
    for name, digest in listed.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    physionet.verify(out, sorted(listed))
    assert "GENERATED" in (out / "README.txt").read_text()


def test_chart_events_fill_the_icu_stays():
    b = stays.block(7, 0)
    for name in ("icu/chartevents", "icu/outputevents", "icu/inputevents", "icu/procedureevents"):
        rows = release.TABLES[name][0](b, np.random.default_rng(1))
        assert len(rows.patient) == stays.quota(0, stays.ROWS[name.partition("/")[2]]).sum()
        text = next(csv_text.encode(1000, *rows.columns)).decode()
        columns = release.TABLES[name][1].split(",")
        parsed = list(csv.DictReader(text.splitlines(), fieldnames=columns))
        assert all(None not in row and None not in row.values() for row in parsed), name
        dictionary = {line.split(",")[0] for line in stay_tables.DICTIONARIES["icu/d_items"][1]()}
        assert {row["itemid"] for row in parsed} <= dictionary


def test_items_are_as_frequent_as_their_table_says():
    b = stays.block(7, 3)
    rows = events.labevents(b, np.random.default_rng(0))
    text = b"".join(csv_text.encode(len(rows.patient), *rows.columns)).decode()
    found = re.findall(r"^\d+,\d+,\d*,\d+,(\d{5}),", text, re.MULTILINE)
    items, counts = np.unique(found, return_counts=True)
    share = dict(zip(items, counts / len(found), strict=True))
    assert share["50912"] == pytest.approx(3418 / 120_940, rel=0.06)  # creatinine
    assert share["51237"] == pytest.approx(1463 / 120_940, rel=0.06)  # INR
    assert len(items) > 190
    assert not re.search(r",-0,", text)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"tables": ("hosp/notes",)}, "hosp/notes"),
    ],
)
def test_bad_arguments(arguments, match, tmp_path):
    with pytest.raises(UserError, match=match) as error:
        synthetic_mimic.write(tmp_path / "out", **{"fraction": 0.01, "seed": 0, **arguments})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        synthetic_mimic.write(tmp_path, fraction=0.01, seed=0)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    few = 20 / stays.ROWS["patients"]
    (tmp_path / "empty").mkdir()
    synthetic_mimic.write(tmp_path / "empty", fraction=few, seed=0, tables=("hosp/patients",))
    with pytest.raises(UserError, match="seed was 0, now 1"):
        synthetic_mimic.write(tmp_path / "empty", fraction=few, seed=1, tables=("hosp/patients",))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 10**12), min_size=1, max_size=50))
def test_numbers_as_text(values):
    text = b"".join(csv_text.encode(len(values), *csv_text.fields(csv_text.number(np.array(values))))).decode()
    assert text.split("\n")[:-1] == [str(v) if v >= 0 else "" for v in values]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 250 * 365 * 86_400), min_size=1, max_size=20))
def test_times_as_text(seconds):
    x = np.array(seconds)
    columns = csv_text.fields(csv_text.clock_seconds(x), csv_text.clock(np.where(x < 0, -1, x // 60)))
    lines = b"".join(csv_text.encode(len(x), *columns)).decode().splitlines()
    for s, line in zip(seconds, lines, strict=True):
        exact = str(csv_text.EPOCH + np.timedelta64(s, "s")).replace("T", " ") if s >= 0 else ""
        assert line == f"{exact},{exact[:-2] + '00' if exact else ''}"


@pytest.mark.parametrize("rows", [0, 1, csv_text.CHUNK, csv_text.CHUNK + 1])
def test_columns_side_by_side_across_chunks(rows):
    names = csv_text.table(["", "a", csv_text.quote('b, "c"'), "°F"])
    index = np.arange(rows) % 4
    inner = csv_text.join(4, names, b"-", csv_text.number(np.arange(4)))
    columns = csv_text.fields(csv_text.number(np.arange(rows)), [(names, index), b"/"], (inner, index), b"end")
    text = b"".join(csv_text.encode(rows, *columns)).decode()
    spelt = ["", "a", '"b, ""c"""', "°F"]
    assert text == "".join(f"{i},{spelt[i % 4]}/,{spelt[i % 4]}-{i % 4},end\n" for i in range(rows))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1e-3, 0.7, 1.0, 2.5, 40.0, 1e6])), min_size=1, max_size=60
    ),
    st.integers(0, 2**31),
)
def test_quotas_are_met_to_the_row(rows, seed):
    group = np.array(sorted(g for g, _ in rows))
    weights = np.array([w for _, w in rows])
    rng = np.random.default_rng(seed)
    quotas = rng.integers(0, 1000, 5)
    counts = stays.apportion(weights, group, quotas)
    able = np.bincount(group, weights, 5) > 0
    assert counts.min() >= 0
    np.testing.assert_array_equal(np.bincount(group, counts, 5), np.where(able, quotas, 0))
    assert not counts[weights == 0].any()
    few = rng.integers(0, 4, 5)
    chosen = stays.choose(rng, weights, group, few)
    np.testing.assert_array_equal(
        np.bincount(group[chosen], minlength=5), np.minimum(few, np.bincount(group[weights > 0], minlength=5))
    )
