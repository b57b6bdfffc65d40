"""The sources on real, open records. Nothing of a single patient is printed or asserted here, only counts."""

import csv
import gzip
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import duckdb
import numpy as np
import pytest

from ehr_scaling.data.events import events, splits
from ehr_scaling.data.sources import challenge_2012, fetch, meds, physionet
from ehr_scaling.data.sources.mimic import release as mimic_iv
from ehr_scaling.errors import UserError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def mirror(real_data):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(real_data / "physionet")))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stays(mirror, tmp_path_factory):
    raw = fetch("challenge-2012", tmp_path_factory.mktemp("challenge"), base_url=mirror)
    out = tmp_path_factory.mktemp("stays")
    return raw, out, challenge_2012.extract(raw, out, seed=0)


@pytest.fixture(scope="module")
def demo(mirror, tmp_path_factory):
    raw = fetch("mimic-iv-demo", tmp_path_factory.mktemp("demo"), base_url=mirror)
    out = tmp_path_factory.mktemp("hospital")
    return raw, out, mimic_iv.extract(raw, out, seed=0)


@pytest.fixture(scope="module")
def complete(real_data, tmp_path_factory):
    """The demo with its chartevents and the module of the ED, without checksums."""
    files = real_data / "physionet" / "files"
    chart = real_data / "derived" / "chartevents.csv.gz"
    if not (chart.is_file() and (files / "mimic-iv-ed-demo").is_dir()):
        pytest.skip(f"no chartevents in {chart.parent}, or no mimic-iv-ed-demo: put them there")
    raw = tmp_path_factory.mktemp("complete")
    for path in (*(files / "mimic-iv-demo/2.2").rglob("*.csv.gz"), *(files / "mimic-iv-ed-demo/2.2").rglob("*.csv.gz")):
        link = raw / path.parent.name / path.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
    (raw / "icu/chartevents.csv.gz").symlink_to(chart)
    return raw


def ask(out, query):
    with duckdb.connect() as con:
        con.execute(f"CREATE VIEW e AS SELECT * FROM read_parquet('{out}/data/*/*.parquet')")
        return con.execute(query).fetchall()


ORDERED = """SELECT count(*) FROM (
  SELECT subject_id, time, lag(subject_id) OVER () AS s, lag(time) OVER () AS t FROM read_parquet('{}')
) WHERE s IS NOT NULL AND (subject_id < s OR (subject_id = s AND t IS NOT NULL AND (time IS NULL OR time < t)))"""


def assert_meds(out):
    files = sorted((out / "data").rglob("*.parquet"))
    for file in files:
        assert ask(out, ORDERED.format(file)) == [(0,)]
    query = "SELECT count(DISTINCT subject_id) FROM read_parquet('{}')"
    in_files = sum(ask(out, query.format(file))[0][0] for file in files)
    assert ask(out, "SELECT count(DISTINCT subject_id) FROM e") == [(in_files,)]  # a patient lies in one file


def test_challenge_2012_counts(stays):
    raw, out, summary = stays
    assert sorted(p.name for p in raw.iterdir()) == sorted([*challenge_2012.FILES, physionet.MANIFEST])
    wanted = {"stays": 12_000, "deaths": 554 + 568 + 585, "observations": 5_059_011, "unended": 167}
    assert {key: summary[key] for key in wanted} == wanted
    assert summary["dropped"]["no parameter's name"] == 2_403
    assert sum(summary["patients"].values()) == 12_000
    assert 0.78 < summary["patients"]["train"] / 12_000 < 0.82
    counts = dict(ask(out, "SELECT code, count(*) FROM e GROUP BY code"))
    assert counts[events.DEATH] == 1_707
    assert counts["HOSPITAL_DISCHARGE"] == 12_000 - 167
    assert counts[events.BIRTH] == 12_000
    assert counts["GENDER//M"] + counts["GENDER//F"] == 12_000 - 12
    # Every row is an observation or a descriptor (four a stay, height and the first weight), or left out.
    observed = sum(n for code, n in counts.items() if code.startswith("OBS//"))
    descriptors = 4 * 12_000 - 12 + counts["HEIGHT"] + counts["WEIGHT"]  # 12 without a gender
    assert observed + descriptors + sum(summary["dropped"].values()) == 5_059_011
    assert summary["events"] == sum(counts.values())
    assert_meds(out)


@pytest.mark.parametrize("number", range(1, 6))
def test_challenge_2012_in_the_splits_of_others(real_data, number):
    """The five that Raindrop published: 9,590, 1,199 and 1,199 stays, 12 left out."""
    file = real_data / "splits" / "p12_splits.csv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    listed = splits.read(f"{file}:{number}")
    raw = real_data / "physionet" / "files" / "challenge-2012" / "1.0.0"
    with (
        (raw / "Outcomes-a.txt").open() as a,
        (raw / "Outcomes-b.txt").open() as b,
        (raw / "Outcomes-c.txt").open() as c,
    ):
        ids = np.array([int(row["RecordID"]) for f in (a, b, c) for row in csv.DictReader(f)])
    assert splits.told(listed, ids) == {"split_file": {"not named": 12, "not there": 0}}
    split, _ = events.assign(ids, 0, listed)
    assert np.bincount(split + 1).tolist() == [12, 9_590, 1_199, 1_199]


def test_challenge_2012_values_that_cannot_be(stays):
    _, out, summary = stays
    left_out = {reason.split()[0]: n for reason, n in summary["dropped"].items() if " is not a number " in reason}
    few = {name for name, n in left_out.items() if n < 10}
    assert few == {"PaCO2", "PaO2", "SaO2", "WBC"}
    assert {name: n for name, n in left_out.items() if name not in few} == {
        "Temp": 281,
        "Weight": 343,
        "Height": 28,
        "pH": 20,
    }
    low, high = ask(out, "SELECT min(numeric_value), max(numeric_value) FROM e WHERE code = 'OBS//Temp'")[0]
    assert 10 <= low < high <= 47


def test_challenge_2012_times(stays):
    _, out, _ = stays
    early = """SELECT count(*) FROM e o JOIN (SELECT subject_id, time FROM e WHERE code = 'HOSPITAL_DISCHARGE') d
      USING (subject_id) WHERE o.time > d.time"""
    assert ask(out, early) == [(0,)]
    deaths = """SELECT count(*) FROM e m JOIN e d USING (subject_id, time)
      WHERE m.code = 'MEDS_DEATH' AND d.code = 'HOSPITAL_DISCHARGE'"""
    assert ask(out, deaths) == [(1_707,)]
    span = "SELECT min(time)::VARCHAR, max(time)::VARCHAR FROM e WHERE code LIKE 'OBS//%'"
    assert ask(out, span) == [("2100-01-01 00:00:00", "2100-01-03 00:00:00")]


def test_mimic_demo_counts(demo, real_data):
    raw, out, summary = demo
    assert sum(summary["patients"].values()) == 100
    assert summary["name"] == "MIMIC-IV Clinical Database Demo"
    counts = dict(ask(out, "SELECT string_split(code, '//')[1], count(*) FROM e GROUP BY 1"))

    def rows(table, where="true"):
        with duckdb.connect() as con:
            query = f"SELECT count(*) FROM read_csv('{raw / table}.csv.gz', all_varchar=true) WHERE {where}"
            return con.execute(query).fetchall()[0][0]

    bound = r"(?i)^\s*([<>]|LESS THAN|GREATER THAN)=?\s*[0-9]"
    given = " OR ".join(f"regexp_matches(coalesce({name}, ''), '{bound}')" for name in ("value", "comments"))
    assert rows("hosp/labevents", "valuenum IS NOT NULL") == 95_246
    assert counts["LAB"] == rows("hosp/labevents", f"valuenum IS NOT NULL OR {given}") == 95_755
    # Troponin T: each of 278 results, of which 145 are given as bounds
    assert dict(ask(out, "SELECT code, count(*) FROM e GROUP BY 1"))["LAB//51003//ng/mL"] == 278
    done = "^(Delayed |Partial )?( *in Other|Administered|Applied|Started|Restarted|Removed Existing)"
    assert counts["MEDICATION"] == rows("hosp/emar", f"regexp_matches(event_txt, '{done}') AND medication IS NOT NULL")
    drugs = "SELECT lower(string_split(code, '//')[2]), count(*) FROM e WHERE code LIKE 'MEDICATION%' GROUP BY 1"
    doses = dict(ask(out, drugs))
    for drug, least in (("norepinephrine", 36), ("propofol", 62), ("fentanyl", 163), ("lidocaine", 113)):
        assert sum(n for name, n in doses.items() if drug in name) >= least
    assert counts["HOSPITAL_ADMISSION"] == counts["INSURANCE"] == counts["HOSPITAL_DISCHARGE"] == 275
    assert counts["DIAGNOSIS"] == rows("hosp/diagnoses_icd")
    assert counts["PROCEDURE"] == rows("hosp/procedures_icd")
    assert counts["HCPCS"] == rows("hosp/hcpcsevents")
    assert counts["DRG"] == rows("hosp/drgcodes", "drg_type = 'HCFA'")
    assert counts["TRANSFER_TO"] == rows("hosp/transfers", "eventtype IN ('admit', 'transfer')")
    assert counts["ICU_ADMISSION"] == counts["ICU_DISCHARGE"] == rows("icu/icustays")
    assert counts["VITAL"] == 2 * rows("hosp/omr", "result_name LIKE 'Blood Pressure%'")
    assert counts[events.DEATH] == rows("hosp/patients", "dod IS NOT NULL")
    assert counts["GENDER"] == counts[events.BIRTH] == 100
    assert ask(out, "SELECT count(DISTINCT subject_id) FROM e WHERE code LIKE 'RACE//%'") == [(100,)]
    assert summary["tables"]["hosp/labevents"] == 107_727
    assert summary["dropped"]["hosp/labevents: no number"] == 107_727 - 95_755
    assert_meds(out)


def test_nothing_in_the_demo_precedes_its_admission(demo):
    """Days without an hour: a procedure or HCPCS code of the day of an admission is not before it."""
    _, out, _ = demo
    early = """SELECT count(*) FROM e JOIN e a USING (subject_id) WHERE a.code LIKE 'HOSPITAL_ADMISSION%'
      AND regexp_matches(e.code, '^(PROCEDURE|VITAL|BMI)') AND e.time < a.time AND e.time::DATE = a.time::DATE
      AND e.time = date_trunc('day', e.time)"""
    ((count,),) = ask(out, early)
    assert count == 0


def test_the_complete_demo_in_each_preset(complete, tmp_path):
    for preset, stays, at in (("clean", 140, "24"), ("ethos_ares", 140, "0"), ("ethos_paper", 140, "0")):
        out = tmp_path / preset
        out.mkdir()
        summary = mimic_iv.extract(complete, out, seed=0, preset=preset)
        assert_meds(out)
        assert summary["sofa"]["stays"] == summary["sofa"]["scores"] == stays
        scores = f"""SELECT count(*), min(s.numeric_value) >= 0, max(s.numeric_value) <= 24 FROM e s JOIN e i
          USING (subject_id) WHERE s.code = 'SOFA' AND i.code LIKE 'ICU_ADMISSION%'
          AND s.time = i.time + INTERVAL {at} HOURS"""
        ((count, low, high),) = ask(out, scores)
        ((total,),) = ask(out, "SELECT count(*) FROM e WHERE code = 'SOFA'")
        assert low
        assert high
        assert count == total == (stays if at == "0" else count)
        drgs = "SELECT count(*) FROM e WHERE starts_with(code, 'DRG//')"
        codes = {code for (code,) in ask(out, "SELECT DISTINCT code FROM e")}
        assert ("DRG//UNKNOWN" in codes) == (preset != "clean")
        assert ask(out, drgs) == [(233 if preset == "clean" else 275,)]  # one a stay
        assert any(code.startswith("ED_REGISTRATION//") for code in codes) == (preset != "ethos_paper")


def test_mimic_demo_deaths_precede_their_discharge(demo):
    _, out, _ = demo
    query = """SELECT count(*) FROM e d JOIN e m USING (subject_id, time)
      WHERE d.code = 'HOSPITAL_DISCHARGE//DIED' AND m.code = 'MEDS_DEATH'"""
    assert ask(out, query) == ask(out, "SELECT count(*) FROM e WHERE code = 'HOSPITAL_DISCHARGE//DIED'") == [(15,)]


def test_the_demos_missing_table_is_a_404(mirror, tmp_path):
    with pytest.raises(UserError, match=r"icu/chartevents\.csv\.gz is not there \(404\)"):
        physionet.download("mimic-iv-demo", "2.2", tmp_path, base_url=mirror, files=["icu/chartevents.csv.gz"])


def test_meds_from_meds_changes_nothing(demo, tmp_path):
    _, out, summary = demo
    again = meds.extract(out, tmp_path, seed=7)
    assert {key: again[key] for key in ("events", "patients", "codes", "name")} == {
        key: summary[key] for key in ("events", "patients", "codes", "name")
    }
    query = "SELECT split, subject_id FROM read_parquet('{}/metadata/subject_splits.parquet') ORDER BY ALL"
    assert ask(out, query.format(out)) == ask(out, query.format(tmp_path))
    total = "SELECT count(*) FROM (SELECT * FROM e EXCEPT ALL SELECT * FROM read_parquet('{}/data/*/*.parquet'))"
    assert ask(out, total.format(tmp_path)) == [(0,)]


def test_ethos_ares_is_what_a_plain_program_makes(real_data, tmp_path):
    """The rules of that program, row by row in plain Python: tables in its order, equal rows once, a stable sort."""
    raw = real_data / "physionet/files/mimic-iv-demo/2.2"
    mimic_iv.extract(raw, tmp_path, seed=0, preset="ethos_ares")
    made: dict[str, list[tuple]] = {}
    for patient, *event in ask(tmp_path, "SELECT subject_id::VARCHAR, time::VARCHAR, code, numeric_value FROM e"):
        if event[0]:
            made.setdefault(patient, []).append(tuple(event))
    assert made == plain_ethos_ares(raw)


def plain_ethos_ares(raw):
    def table(name):
        with gzip.open(raw / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as f:
            return list(csv.DictReader(f))

    def part(text):
        return text or "UNK"

    found: dict[tuple, None] = {}  # in order, each once

    def add(row, time, code, *kept, value=None):
        if time:
            time = time if len(time) > 10 else f"{time} 00:00:00"
            found.setdefault((row["subject_id"], time, code, value, kept))

    stays = table("hosp/admissions")
    end = {a["hadm_id"]: a["dischtime"] for a in stays}
    drgs, diagnoses = table("hosp/drgcodes"), table("hosp/diagnoses_icd")
    died = {}
    for a in stays:
        if a["deathtime"]:
            died[a["subject_id"]] = min(a["deathtime"], died.get(a["subject_id"], "9"))
    for p in table("hosp/patients"):
        died[p["subject_id"]] = died.get(p["subject_id"]) or (p["dod"] and f"{p['dod']} 00:00:00")
    leaves = {(a["subject_id"], a["dischtime"]) for a in stays}
    for a in stays:
        add(a, a["edregtime"], "ED_REGISTRATION")
    for a in stays:
        add(a, a["edouttime"], "ED_OUT")
    for a in stays:
        add(
            a,
            a["admittime"],
            f"HOSPITAL_ADMISSION//{a['admission_type']}//{part(a['admission_location'])}",
            a["hadm_id"],
        )
        add(a, a["admittime"], f"INSURANCE//{part(a['insurance'])}", a["hadm_id"])
        add(a, a["admittime"], f"MARITAL_STATUS//{part(a['marital_status'])}", a["hadm_id"])
    for a in stays:
        if died[a["subject_id"]] == a["dischtime"]:
            add(a, a["dischtime"], "MEDS_DEATH")
    known = {d["hadm_id"] for d in drgs if d["drg_type"] == "HCFA"}
    last = {d["hadm_id"]: i for i, d in enumerate(diagnoses)}
    for a in stays:
        add(a, a["dischtime"], f"HOSPITAL_DISCHARGE//{part(a['discharge_location'])}", a["hadm_id"])
        if a["hadm_id"] not in known and a["hadm_id"] not in last:
            add(a, a["dischtime"], "DRG//UNKNOWN", a["hadm_id"])
    for i, d in enumerate(diagnoses):
        add(d, end[d["hadm_id"]], f"DIAGNOSIS//ICD//{d['icd_version']}//{d['icd_code']}", d["hadm_id"])
        if last[d["hadm_id"]] == i and d["hadm_id"] not in known:
            add(d, end[d["hadm_id"]], "DRG//UNKNOWN", d["hadm_id"])
    for d in drgs:
        if d["drg_type"] == "HCFA":
            add(
                d, end[d["hadm_id"]], f"DRG//HCFA//{d['drg_code']}//{d['description']}", d["hadm_id"], d["drg_severity"]
            )
    for m in table("hosp/emar"):
        if m["event_txt"] == "Administered" and m["medication"].strip():
            add(m, m["charttime"], f"MEDICATION//{m['medication']}//Administered", m["emar_id"])
    for h in table("hosp/hcpcsevents"):
        add(h, h["chartdate"], f"HCPCS//{h['short_description']}", h["hadm_id"])
    for lab in table("hosp/labevents"):
        if lab["valuenum"]:
            kept = lab["hadm_id"], lab["value"], lab["priority"]
            value = float(lab["valuenum"])
            add(lab, lab["charttime"], f"LAB//{lab['itemid']}//{part(lab['valueuom'])}", *kept, value=value)
    for o in table("hosp/omr"):
        kept = o["result_name"], o["result_value"]
        if o["result_name"].startswith("Blood Pressure"):
            for k, name in enumerate(("SYSTOLIC", "DIASTOLIC")):
                value = float(o["result_value"].split("/")[k])
                add(o, o["chartdate"], f"VITAL//BLOOD_PRESSURE//{name}", *kept, value=value)
        elif o["result_name"].startswith("BMI") and 10 <= float(o["result_value"]) <= 100:
            add(o, o["chartdate"], "BMI", *kept, value=float(o["result_value"]))
    for p in table("hosp/patients"):
        add(p, f"{int(p['anchor_year']) - int(p['anchor_age'])}-01-01", "MEDS_BIRTH")
        time = died[p["subject_id"]]
        if time and (p["subject_id"], time) not in leaves:
            add(p, time, "MEDS_DEATH")
    for p in table("hosp/procedures_icd"):
        add(p, p["chartdate"], f"PROCEDURE//ICD//{p['icd_version']}//{p['icd_code']}", p["hadm_id"])
    for t in table("hosp/transfers"):
        if t["eventtype"] in ("admit", "transfer"):
            add(t, t["intime"], f"TRANSFER_TO//{t['eventtype']}//{part(t['careunit'])}", t["hadm_id"])
    icu = table("icu/icustays")
    for i in icu:
        add(i, i["intime"], f"ICU_ADMISSION//{i['first_careunit']}", i["stay_id"])
    for i in icu:
        add(i, i["outtime"], f"ICU_DISCHARGE//{i['last_careunit']}", i["stay_id"])
    patients: dict[str, list[tuple]] = {}
    for patient, time, code, value, _ in found:
        patients.setdefault(patient, []).append(
            (time, code, value if value is None else pytest.approx(value, rel=1e-6))
        )
    return {patient: sorted(rows, key=lambda row: row[0]) for patient, rows in patients.items()}
