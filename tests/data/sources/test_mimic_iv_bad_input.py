"""Tables of MIMIC-IV that are damaged, wrong or strange: refused at once, or counted; never a traceback."""

import csv
import gzip
import io
import re
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mimic_iv_tables import ED, TABLES, extract, extracted, put, release, rows

from ehr_scaling.data.sources.mimic import reading as mimic_read
from ehr_scaling.data.sources.mimic import release as mimic_iv
from ehr_scaling.data.sources.mimic import spreading as mimic_spread
from ehr_scaling.errors import UserError

LABS = TABLES["hosp/labevents"]
MANY = (
    LABS.splitlines()[0] + "\n" + "".join(f"{i},3,,1,{i % 5},2149-01-01 09:00:00,,1,{i},mg,,\n" for i in range(1_000))
)


@pytest.fixture
def raw(tmp_path):
    return release(tmp_path / "raw", TABLES)


@pytest.fixture
def no_work(monkeypatch):
    """Fail when a table is spread: what is wrong should have been seen before."""
    monkeypatch.setattr(mimic_spread._Spreading, "run", lambda *_: pytest.fail("work has begun"))


def refused(raw, tmp_path, message, **options):
    with pytest.raises(UserError, match=message) as e:
        extract(raw, tmp_path, **options)
    assert "\n" not in str(e.value)
    assert not re.search("three|June|Heparin|2150-|2149-", str(e.value))


def test_a_missing_table(raw, tmp_path, no_work):
    (raw / "hosp/admissions.csv.gz").unlink()
    refused(raw, tmp_path, r"hosp/admissions\.csv\.gz is missing: --raw must be")


def test_names_of_labs_that_a_preset_needs(raw, tmp_path, no_work):
    refused(raw, tmp_path, r"d_labitems\.csv\.gz is missing: the preset ethos_paper", preset="ethos_paper")


def test_a_missing_optional_table_is_left_out(raw, tmp_path):
    (raw / "hosp/emar.csv.gz").unlink()
    table, summary = extracted(raw, tmp_path)
    assert len(rows(table, 1)) == 23
    assert not any(code.startswith("MEDICATION") for code in table["code"].to_pylist())
    assert summary["tables"]["hosp/emar"] == "not there"
    refused(raw, tmp_path, r"hosp/emar\.csv\.gz is missing: copy it there", tables=("emar",))


@pytest.mark.parametrize("table", ["hosp/patients", "hosp/labevents"])
def test_a_truncated_table(raw, tmp_path, table, no_work):
    put(raw, table, TABLES[table] * 3)
    path = raw / f"{table}.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    refused(raw, tmp_path, rf"{table}\.csv\.gz is truncated or damaged: delete it")


def test_a_large_truncated_table(raw, tmp_path, monkeypatch):
    put(raw, "hosp/labevents", MANY * 30)
    path = raw / "hosp/labevents.csv.gz"
    path.write_bytes(path.read_bytes()[:-500])
    monkeypatch.setattr(mimic_read, "_WHOLE", 0)  # too large to be unpacked twice
    refused(raw, tmp_path, r"labevents\.csv\.gz is truncated or damaged: delete it")


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("hosp/labevents", lambda b: gzip.decompress(b), r"is not packed with gzip, against its name: rename it"),
        ("hosp/labevents", lambda b: gzip.compress(b""), r"is empty, without even a header"),
        ("hosp/labevents", lambda b: b"", r"is not packed with gzip|is truncated|is empty"),
        (
            "hosp/labevents",
            lambda b: gzip.compress(gzip.decompress(b).replace(b",", b";")),
            r"has no column \w+: it is separated by ';'",
        ),
        (
            "hosp/labevents",
            lambda b: gzip.compress(gzip.decompress(b).replace(b",valuenum", b",number")),
            r"labevents\.csv\.gz has no column valuenum: is it the table",
        ),
        (
            "hosp/labevents",
            lambda b: gzip.compress(gzip.decompress(b).replace(b",valuenum", b", valuenum")),
            r"labevents\.csv\.gz has no column valuenum: is it the table",
        ),
        (
            "hosp/emar",
            lambda b: gzip.compress(gzip.decompress(b).replace(b"Heparin,N", b"H\xe9parin,N")),
            r"emar\.csv\.gz, row 3: the text is not UTF-8",
        ),
        (
            "hosp/labevents",
            lambda b: gzip.compress(gzip.decompress(b).replace(b",priority", b",valuenum")),
            r"labevents\.csv\.gz has more than one column valuenum",
        ),
        ("hosp/emar", lambda b: gzip.compress(b"\xef\xbb\xbf"), r"emar\.csv\.gz has no column"),
        ("hosp/emar", lambda b: gzip.compress(gzip.decompress(b).decode().encode("utf-16")), r"row 1: the text is not"),
        ("hosp/omr", lambda b: b[:10] + b"garbage" + b[17:], r"is truncated or damaged"),
    ],
)
def test_files_that_are_refused_at_once(raw, tmp_path, table, change, message, no_work):
    path = raw / f"{table}.csv.gz"
    path.write_bytes(change(path.read_bytes()))
    began = time.monotonic()
    refused(raw, tmp_path, message)
    assert time.monotonic() - began < 1


def test_parquet_that_is_none(raw, tmp_path, no_work):
    (raw / "hosp/emar.csv.gz").unlink()
    (raw / "hosp/emar.parquet").write_bytes(b"PAR1nothing")
    refused(raw, tmp_path, r"emar\.parquet is truncated or damaged")
    pq.write_table(pa.table({"medication": ["x"]}), raw / "hosp/emar.parquet", store_schema=False)
    odd = (raw / "hosp/emar.parquet").read_bytes().replace(b"medication", b"m\xffdication")
    (raw / "hosp/emar.parquet").write_bytes(odd)
    refused(raw, tmp_path, r"emar\.parquet is truncated or damaged")


def test_parquet_of_other_programs(raw, tmp_path):
    """Ids and times as pandas writes them where some are missing, text as categories."""
    whole = extract(raw, tmp_path)
    path = raw / "hosp/labevents.csv.gz"
    table = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    path.unlink()
    for name, kind in (("subject_id", pa.float64()), ("itemid", pa.float64()), ("charttime", pa.timestamp("ns"))):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    nan = pc.fill_null(table["valuenum"], float("nan"))
    table = table.set_column(table.column_names.index("valuenum"), "valuenum", nan)
    for name in ("valueuom", "itemid"):
        text = table[name].cast(pa.int64()).cast(pa.string()) if name == "itemid" else table[name]
        table = table.set_column(table.column_names.index(name), name, text.dictionary_encode())
    pq.write_table(table, raw / "hosp/labevents.parquet")
    assert extract(raw, tmp_path).equals(whole)
    odd = table.set_column(0, "labevent_id", pa.array([{"a": 1}] * len(table)))
    pq.write_table(odd, raw / "hosp/labevents.parquet")
    refused(raw, tmp_path, r"labevents\.parquet has a column of a type that it cannot be read as")


@pytest.mark.parametrize("kind", [pa.float64(), pa.null(), pa.int32()])
def test_an_empty_parquet_column_may_be_of_any_type(raw, tmp_path, kind):
    """Programs that know no type for a column without a value take double for it, or null."""
    path = raw / "hosp/labevents.csv.gz"
    table = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    path.unlink()
    empty = {"valueuom": pa.string(), "storetime": pa.timestamp("us"), "valuenum": pa.float64()}
    found = {}
    for name, own in ("as it should be", None), ("as it is", kind):
        for column, right in empty.items():
            if column in table.column_names:
                nothing = pa.nulls(len(table), own or right)
                table = table.set_column(table.column_names.index(column), column, nothing)
        pq.write_table(table, raw / "hosp/labevents.parquet")
        found[name] = extract(raw, tmp_path)
    assert found["as it is"].equals(found["as it should be"])


def test_a_changed_table(raw, tmp_path, no_work):
    (raw / "SHA256SUMS.txt").write_text(f"{'0' * 64} hosp/omr.csv.gz\n")
    refused(raw, tmp_path, r"omr\.csv\.gz does not match SHA256SUMS")


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (
            "hosp/labevents",
            "3,3,mg/dL",
            "3,three,mg/dL",
            r"labevents\.csv\.gz, row 5: 1 of 6 rows .*valuenum is not number",
        ),
        ("hosp/admissions", "2150-06-03", "June 3", r"admissions\.csv\.gz, row 4: .*dischtime is not time"),
        ("hosp/emar", "Heparin,Not", "Heparin,a,b,c,Not", r"emar\.csv\.gz, row 3: .*number of columns"),
        ("hosp/emar", "Heparin,Not", '"Heparin,Not', r"emar\.csv\.gz"),
        ("hosp/patients", "\n3,M,30,2150,g,", "", r"patients\.csv\.gz holds no patient"),
        ("hosp/patients", "2,M,91", "4,M,91", r"patients\.csv\.gz lacks the patients of 1 admissions"),
        ("hosp/patients", "3,M,30", "1,M,30", r"patients\.csv\.gz holds a patient twice"),
    ],
)
def test_bad_tables(raw, tmp_path, table, old, new, message):
    changed = TABLES[table].splitlines()[0] + "\n" if old.startswith("\n") else TABLES[table].replace(old, new)
    put(raw, table, changed)
    refused(raw, tmp_path, message)


def test_few_bad_rows_are_counted(raw, tmp_path):
    defects = [
        ("", "no time"),
        ("2149-13-41 09:00:00", "charttime is not time"),
        ("2100-01-01 09:00:00", "before birth"),
        ("2262-05-01 09:00:00", "after 2262"),
        ("9999-12-31", "after 2262"),
    ]
    lines = [f"{10_000 + i},3,,1,7,{when},,1,1,mg,,\n" for i, (when, _) in enumerate(defects)]
    values = [("nan", "finite"), ("inf", "finite"), ("-inf", "finite"), ("1e308", "finite"), ("1e999", "finite")]
    lines += [f"{20_000 + i},3,,1,7,2149-01-01 09:00:00,,1,{v},mg,,\n" for i, (v, _) in enumerate(values)]
    lines += ["30000,3,,1,7,2149-01-01 09:00:00,,1,1\n", "30001,4711,,1,7,2149-01-01 09:00:00,,1,1,mg,,\n"]
    lines += ["999,3,,1,4,2149-01-01 09:00:00,,1,999,mg,,\n", "999,3,,1,4,2149-01-01 09:00:00,,1,999,g,,\n"]
    put(raw, "hosp/labevents", MANY + "".join(lines))
    table, summary = extracted(raw, tmp_path)
    dropped = {k.partition(": ")[2]: n for k, n in summary["dropped"].items() if k.startswith("hosp/labevents")}
    assert dropped == {
        "no time": 1,
        "charttime is not time": 1,
        "before birth": 1,
        "after 2262": 2,
        "a number that is not finite": 5,
        "another number of columns than the header": 1,
        "patient not in hosp/patients": 1,
        "repeated row": 1,
    }
    labs = [code for code in table["code"].to_pylist() if code.startswith("LAB")]
    assert len(labs) == 1_001
    assert labs.count("LAB//4//g") == 1
    assert summary["several_units"] == {"hosp/labevents": 1}
    assert len(labs) + sum(dropped.values()) == summary["tables"]["hosp/labevents"]


def test_a_bad_row_late_in_a_large_file(raw, tmp_path):
    """The strict reading breaks off in the middle; the lenient one begins anew, and nothing is counted twice."""
    text = MANY + MANY.partition("\n")[2].replace(",3,,1,", ",1,,1,") + "9,3,,1,7,2149-01-01 09:00:00,,1,1 mg,mg,,\n"
    put(raw, "hosp/labevents", text)
    table, summary = extracted(raw, tmp_path)
    assert summary["tables"]["hosp/labevents"] == 2_001
    assert sum(code.startswith("LAB") for code in table["code"].to_pylist()) == 2_000
    assert summary["dropped"]["hosp/labevents: valuenum is not number"] == 1


def test_text_that_is_not_utf8_late_in_a_large_file(raw, tmp_path):
    path = raw / "hosp/labevents.csv.gz"
    text = (MANY * 30).encode() + b"9,3,,1,7,2149-01-01 09:00:00,,1,1,m\xb5g,,\n"
    path.write_bytes(gzip.compress(text))
    _, summary = extracted(raw, tmp_path)
    assert summary["dropped"]["hosp/labevents: valueuom is not text"] == 1


def test_more_than_a_hundredth_is_too_much(raw, tmp_path):
    put(raw, "hosp/labevents", MANY + "1,2\n" * 12)
    refused(raw, tmp_path, r"labevents\.csv\.gz, row 1002: 12 of 1012 rows cannot be read \(another number of columns")


def test_strange_names(raw, tmp_path):
    names = ['a//b, "c"', "💊 drop", "x" * 10_000, " padded ", "a///b", "NA", "null"]
    header = TABLES["hosp/emar"].splitlines()[0]
    text = io.StringIO()
    csv.writer(text).writerows(
        ["1", "101", "x", i, "2150-03-01 11:00:00", "", name, "Administered"] for i, name in enumerate(names)
    )
    put(raw, "hosp/emar", f"{header}\n{text.getvalue()}")
    codes = [code for _, code, _ in rows(extract(raw, tmp_path), 1) if code.startswith("MEDICATION")]
    spelt = ['a/b, "c"', "💊 drop", "x" * 10_000, "padded", "a/b", "NA", "null"]
    assert codes == [f"MEDICATION//{name}//Administered" for name in spelt]


def test_an_empty_table(raw, tmp_path):
    for table in ("hosp/labevents", "hosp/omr"):
        put(raw, table, TABLES[table].splitlines()[0] + "\n")
    put(raw, "hosp/diagnoses_icd", TABLES["hosp/diagnoses_icd"].splitlines()[0])  # without a line break
    table, summary = extracted(raw, tmp_path)
    assert [summary["tables"][f"hosp/{t}"] for t in ("labevents", "omr", "diagnoses_icd")] == [0, 0, 0]
    assert len(table) == summary["events"] > 0


@pytest.mark.parametrize("preset", ["clean", "ethos_ares"])
def test_no_admission_of_a_patient_that_is_there(raw, tmp_path, preset, monkeypatch):
    """As where the patients' table is of other people: what is left are those who were never admitted."""
    put(raw, "hosp/patients", TABLES["hosp/patients"].replace("\n1,", "\n,").replace("\n2,", "\n,"))
    monkeypatch.setattr(mimic_read, "BAD_SHARE", 1.0)
    if preset == "ethos_ares":
        put(raw, "hosp/admissions", TABLES["hosp/admissions"].splitlines()[0] + "\n")
    table, _ = extracted(raw, tmp_path, preset=preset)
    assert set(table["subject_id"].to_pylist()) == {3}


def test_a_discharge_before_its_admission(raw, tmp_path):
    put(raw, "hosp/admissions", TABLES["hosp/admissions"].replace("2150-03-04 12:00:00", "2150-02-28 12:00:00"))
    table, summary = extracted(raw, tmp_path)
    events = rows(table, 1)
    assert ("03-01 10:00:00", "HOSPITAL_DISCHARGE//REHAB", None) in events
    assert summary["mended"]["hosp/admissions: discharge before admission moved to it"] == 1


def test_no_discharge_time(raw, tmp_path):
    put(raw, "hosp/admissions", TABLES["hosp/admissions"].replace("2150-06-03 09:00:00", ""))
    table, summary = extracted(raw, tmp_path)
    assert "HOSPITAL_DISCHARGE//HOME" not in table["code"].to_pylist()
    assert summary["dropped"]["hosp/admissions: no time, in a row of other events"] == 1
    assert summary["dropped"]["hosp/diagnoses_icd: no time"] == 1


def test_two_patients_interleaved_and_one_with_very_many_rows(raw, tmp_path):
    people = (
        f"{i},{1 + 2 * (i % 2)},,1,{i % 5},2149-01-{1 + i % 28:02d} 09:00:00,,1,{i},mg,,\n" for i in range(60_000)
    )
    put(raw, "hosp/labevents", LABS.splitlines()[0] + "\n" + "".join(people))
    table = extract(raw, tmp_path)
    for patient in (1, 3):
        own = [(t, v) for t, code, v in rows(table, patient) if code.startswith("LAB")]
        assert len(own) == 30_000
        assert own == sorted(own)  # by time; of equal times by row


def test_a_patient_with_one_event(raw, tmp_path):
    put(raw, "hosp/patients", TABLES["hosp/patients"] + "9,F,,,,\n")
    table, summary = extracted(raw, tmp_path)
    assert rows(table, 9) == [(None, "GENDER//F", None)]
    assert summary["dropped"]["hosp/patients: no time, in a row of other events"] == 1


FIELD = st.one_of(
    st.sampled_from(
        ["", "1", "3", "0", "-5", "1e308", "nan", "inf", "1.5", "2149-01-01 09:00:00", "2149-01-01", "<0.01", "mg"]
    ),
    st.sampled_from(["2263-01-01", "0001-01-01", "9" * 30, "//", '"', ",", "\r", "\n", "é💊", "\x00", " ", "x" * 300]),
    st.text(max_size=6),
)
ROW = st.tuples(st.sampled_from(["1", "3", "3", "3", "7", ""]), *[FIELD] * 7)
GOOD = ("3", "50912", "2149-01-01 09:00:00", "1.5", "mg/dL", "2149-01-01 10:00:00", "1.5", "a line\nbreak")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return release(
        tmp_path_factory.mktemp("fuzz"), {name: TABLES[name] for name in ("hosp/patients", "hosp/admissions")}
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    odd=st.lists(ROW, max_size=6),
    good=st.integers(0, 3).map(lambda n: 200 * n),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    tail=st.sampled_from(["", "\n\n", "1,2\n", '"', "\x00"]),
)
def test_lab_rows_are_events_or_counted(tree, tmp_path_factory, odd, good, quoting, tail):
    text = io.StringIO()
    out = csv.writer(text, quoting=quoting, lineterminator="\n")
    out.writerow(
        ["labevent_id", "subject_id", "itemid", "charttime", "valuenum", "valueuom", "storetime", "value", "comments"]
    )
    out.writerows([i, *row] for i, row in enumerate([GOOD] * good + odd))
    data = (text.getvalue() + tail).encode("utf-8", "surrogatepass")
    (tree / "hosp/labevents.csv").write_bytes(data)
    folder = tmp_path_factory.mktemp("events")
    try:
        summary = mimic_iv.extract(tree, folder, seed=0, splits=(1.0, 0.0, 0.0))
    except UserError as e:
        assert "\n" not in str(e)
        return
    table = pa.concat_tables(pq.read_table(p) for p in (folder / "data").rglob("*.parquet"))
    labs = sum(code.startswith("LAB//") for code in table["code"].to_pylist())
    dropped = sum(n for reason, n in summary["dropped"].items() if reason.startswith("hosp/labevents"))
    assert labs + dropped == summary["tables"]["hosp/labevents"]
    assert summary["tables"]["hosp/labevents"] >= good
    assert labs >= good
    values = [v for v in table["numeric_value"].to_pylist() if v is not None]
    assert all(abs(v) < float("inf") for v in values)


EVERY = TABLES | ED | {"hosp/d_labitems": "itemid,label\n50912,Creatinine\n"}
EDIT = st.tuples(
    st.sampled_from(sorted(EVERY)), st.floats(0, 1), st.integers(0, 12), st.one_of(FIELD, st.sampled_from(["\n", ",,"]))
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(EDIT, min_size=1, max_size=4),
    preset=st.sampled_from(["clean", "ethos_ares", "ethos_paper"]),
    patience=st.sampled_from([0.01, 1.0]),  # with it, what is bad in these small tables is not refused
)
def test_edited_tables_give_one_line_or_events(tmp_path_factory, edits, preset, patience):
    texts = dict(EVERY)
    for table, where, cut, new in edits:
        text = texts[table]
        at = round(where * len(text))
        texts[table] = text[:at] + new + text[at + cut :]
    folder = tmp_path_factory.mktemp("edited")
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mimic_read, "BAD_SHARE", patience)
            table, summary = extracted(folder, folder, preset=preset)
    except UserError as e:
        assert "\n" not in str(e)
        return
    assert len(table) == summary["events"]
    assert all(n > 0 for n in (summary["dropped"] | summary["mended"]).values())
