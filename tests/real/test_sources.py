"""The sources on real, open records. Nothing of a single patient is printed or asserted here, only counts."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import duckdb
import pytest

from ehr_scaling.data import events
from ehr_scaling.data.sources import challenge_2012, fetch, meds, mimic_iv, physionet
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
    # Every row is an observation or a descriptor (five a stay, and the admission weight), missing or nameless.
    observed = sum(n for code, n in counts.items() if code.startswith("OBS//"))
    missing_descriptors = (12_000 - counts["HEIGHT"]) + (12_000 - counts["WEIGHT"]) + 12
    assert (
        observed + 6 * 12_000 + (summary["dropped"]["value is missing (-1)"] - missing_descriptors) + 2_403 == 5_059_011
    )
    assert summary["events"] == sum(counts.values())
    assert_meds(out)


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

    assert counts["LAB"] == rows("hosp/labevents", "valuenum IS NOT NULL") == 95_246
    assert counts["MEDICATION"] == rows("hosp/emar", "event_txt = 'Administered' AND medication IS NOT NULL")
    assert counts["HOSPITAL_ADMISSION"] == counts["INSURANCE"] == counts["HOSPITAL_DISCHARGE"] == 275
    assert counts["DIAGNOSIS"] == rows("hosp/diagnoses_icd")
    assert counts["PROCEDURE"] == rows("hosp/procedures_icd")
    assert counts["HCPCS"] == rows("hosp/hcpcsevents")
    assert counts["DRG"] == rows("hosp/drgcodes", "drg_type = 'HCFA'")
    assert counts["TRANSFER_TO"] == rows("hosp/transfers", "eventtype IN ('admit', 'transfer')")
    assert counts["ICU_ADMISSION"] == counts["ICU_DISCHARGE"] == rows("icu/icustays")
    assert counts["VITAL"] == 2 * rows("hosp/omr", "result_name LIKE 'Blood Pressure%'")
    assert counts[events.DEATH] == rows("hosp/patients", "dod IS NOT NULL")
    assert counts["GENDER"] == counts["RACE"] == counts[events.BIRTH] == 100
    assert summary["tables"]["hosp/labevents"] == 107_727
    assert summary["dropped"]["hosp/labevents: no number"] == 107_727 - 95_246
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
