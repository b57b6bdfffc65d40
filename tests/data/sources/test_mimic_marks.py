"""Whose records tables are is told by the tables: a file that says so beside others changes nothing."""

import gzip
import json
import shutil

import pytest

from ehr_scaling import artifacts
from ehr_scaling.data.sources import physionet
from ehr_scaling.data.sources.mimic import marks
from ehr_scaling.data.sources.synthetic import mimic as synthetic_mimic


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "raw"
    synthetic_mimic.write(folder, fraction=1e-4, seed=0)
    return folder


def tables(folder):
    return sorted(folder.glob("*/*.csv.gz"))


def test_generated_tables_are_known_wherever_they_lie(generated, tmp_path):
    assert marks.are_generated(tables(generated)) and not marks.are_demo(tables(generated))
    shutil.copytree(generated, tmp_path / "elsewhere")
    assert marks.are_generated(tables(tmp_path / "elsewhere"))


@pytest.mark.parametrize("record", ["copied", "made up", "none"])
def test_a_record_beside_other_tables_makes_nobody_generated(generated, tmp_path, record):
    raw = tmp_path / "raw"
    (raw / "hosp").mkdir(parents=True)
    (raw / "hosp" / "patients.csv.gz").write_bytes(gzip.compress(b"subject_id,gender\n1,F\n"))
    if record == "copied":
        shutil.copy(generated / artifacts.RECORD, raw)
    elif record == "made up":
        (raw / artifacts.RECORD).write_text(json.dumps({"inputs": {"source": "synthetic"}}))
    assert not marks.are_generated(tables(raw))


def test_one_other_table_among_generated_ones_is_enough(generated, tmp_path):
    shutil.copytree(generated, tmp_path / "raw")
    (tmp_path / "ed" / "ed").mkdir(parents=True)
    (tmp_path / "ed" / "ed" / "edstays.csv.gz").write_bytes(gzip.compress(b"subject_id\n1\n"))
    assert not marks.are_generated([*tables(tmp_path / "raw"), *tables(tmp_path / "ed")])
    path = tmp_path / "raw" / "hosp" / "patients.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"2,F,50,2150,2017 - 2019,\n"))
    assert not marks.are_generated(tables(tmp_path / "raw"))


def test_names_of_the_demo_make_no_demo(generated, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(generated, raw)
    (raw / "demo_subject_id.csv").write_text("subject_id\n1\n")
    with (raw / physionet.MANIFEST).open("a") as f:
        f.write(f"{artifacts.sha256(raw / 'demo_subject_id.csv')} demo_subject_id.csv\n")
    assert not marks.are_demo(tables(raw))


def test_the_demo_is_the_demo_until_a_table_is_another(real_data, tmp_path):
    demo = real_data / "physionet/files/mimic-iv-demo/2.2"
    assert marks.are_demo(tables(demo)) and not marks.are_generated(tables(demo))
    shutil.copytree(demo, tmp_path / "demo")
    path = tmp_path / "demo" / "hosp" / "patients.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())))
    assert not marks.are_demo(tables(tmp_path / "demo"))
