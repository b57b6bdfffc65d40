"""Code maps and drug names on real, open tables. Only counts are printed or asserted."""

import csv
import gzip
import hashlib
import io

import duckdb
import pytest

from ehr_scaling.data.codes import maps
from ehr_scaling.data.codes.download import PUBLIC, canonical
from ehr_scaling.data.codes.drugs import ingredient


@pytest.fixture(scope="module")
def folder(real_data):
    if not (real_data / "maps").is_dir():
        pytest.skip(f"no code maps at {real_data / 'maps'}")
    return real_data / "maps"


@pytest.fixture(scope="module")
def loaded(folder):
    return maps.load(folder)


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as f:
        return list(csv.reader(f))[1:]


def test_the_public_maps_are_read_whole(loaded):
    # CMS: 14,567 diagnoses and 3,882 procedures of ICD-9-CM, of which 422 and 210 have no map.
    assert (len(loaded.icd9cm), len(loaded.icd9pcs)) == (14_567 - 422, 3_882 - 210)
    assert len(loaded.titles) == 1_911
    assert set(loaded.files) == {"icd9cm", "icd9pcs", "titles"}
    assert maps.icd10cm(loaded, "250.00") == "E119"
    assert maps.icd10cm(loaded, "805.01") == "S12"
    assert maps.icd10cm(loaded, "805.01", "clean") == "S1200"
    assert maps.category_title(loaded, "E119") == "Type 2 diabetes mellitus"


def test_every_diagnosis_and_procedure_has_a_category_with_a_title(loaded):
    for rule in ("ares", "paper", "clean"):
        assert all(maps.category_title(loaded, maps.icd10cm(loaded, code, rule)) for code in loaded.icd9cm)
        assert all(3 <= len(maps.icd10pcs(loaded, code, rule)) <= 7 for code in loaded.icd9pcs)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("icd9cm", "gem2018_icd9cm_to_icd10cm"),
        ("icd9pcs", "gem2018_icd9proc_to_icd10pcs"),
        ("titles", "icd10cm-order-Jan-2021"),
    ],
)
def test_the_checksums_of_the_download_are_those_of_the_public_maps(folder, tmp_path, loaded, kind, name):
    """The tables, put into the form of CMS's own files, give what `download` verifies; and that is read as the same."""
    table = rows(folder / f"{name}.csv.gz")
    if kind == "titles":
        text = "\n".join(
            f"{k:05d} {code:<7} {b} {short:<60} {long}" for k, (code, b, short, long) in enumerate(table, 1)
        )
    else:
        text = "\n".join(" ".join(row) for row in table)
    kept = canonical(kind, text, name)
    assert hashlib.sha256(kept.encode()).hexdigest() == PUBLIC[kind].sha256
    (tmp_path / PUBLIC[kind].name).write_text(kept)
    assert getattr(maps.load(tmp_path), kind) == getattr(loaded, kind)


def share(table, column, where):
    """Of rows with a name, and of distinct names, how many have an ingredient."""
    counts = duckdb.sql(
        f"SELECT {column}, count(*) FROM read_csv('{table}', all_varchar=true) "
        f"WHERE {column} IS NOT NULL AND {where} GROUP BY 1"
    ).fetchall()
    known = [(bool(ingredient(name)), count) for name, count in counts]
    return sum(ok * count for ok, count in known) / sum(count for _, count in known), sum(ok for ok, _ in known) / len(
        known
    )


@pytest.mark.parametrize(
    ("table", "column", "where", "of_rows", "of_names"),
    [
        ("mimic-iv-demo/2.2/hosp/emar", "medication", "event_txt = 'Administered'", 0.99, 0.98),
        ("mimic-iv-demo/2.2/hosp/prescriptions", "drug", "drug_type = 'MAIN'", 0.99, 0.98),
        # Names in the spelling of cabinets and of outpatients, which the lexicon was not made from.
        ("mimic-iv-demo/2.2/hosp/emar_detail", "product_description", "true", 0.98, 0.97),
        ("mimic-iv-ed-demo/2.2/ed/pyxis", "name", "true", 0.95, 0.95),
        ("mimic-iv-ed-demo/2.2/ed/medrecon", "name", "true", 0.92, 0.92),
    ],
)
def test_drugs_of_the_demo_have_an_ingredient(real_data, table, column, where, of_rows, of_names):
    found = share(real_data / "physionet" / "files" / f"{table}.csv.gz", column, where)
    print(f"{table}: {found[0]:.2%} of rows, {found[1]:.2%} of names")
    assert found[0] >= of_rows
    assert found[1] >= of_names


def test_text_that_names_no_drug_is_not_taken_for_one(real_data):
    """Titles of diagnoses: the few that begin with a drug are of its abuse, its lack, its pump or its vaccine."""
    table = real_data / "physionet/files/mimic-iv-demo/2.2/hosp/d_icd_diagnoses.csv.gz"
    titles = [
        row[0] for row in duckdb.sql(f"SELECT DISTINCT long_title FROM read_csv('{table}') ORDER BY 1").fetchall()
    ]
    titles = titles[::8]
    known = [title for title in titles if ingredient(title)]
    print(f"{len(known)} of {len(titles)} titles")
    assert 0 < len(known) < 0.005 * len(titles)


def test_drugs_of_the_intensive_care_unit_agree_with_their_rxnorm_names(folder):
    """What an infusion's label becomes is what its RxNorm name becomes, where both are single ingredients."""
    text = (folder / "inputevents_to_rxnorm.csv").read_text(encoding="utf-8")
    pairs = {
        (ingredient(row["label"]), ingredient(row["omop_concept_name"]))
        for row in csv.DictReader(io.StringIO(text))
        if row["omop_vocabulary_id"] == "RxNorm"
    }
    both = {pair for pair in pairs if all(pair)}
    agree = sum(one == other for one, other in both)
    print(f"{agree} of {len(both)} agree")
    assert len(both) > 100
    assert agree >= len(both) - 1  # an anticoagulant citrate that RxNorm has for the urine
