"""Raw records of any content become events, or one line."""

import gzip
import io
import shutil

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.data.sources import challenge_2012, meds, mimic
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.sources.mimic import reading
from tests.data.sources.meds_files import table
from tests.data.sources.mimic_iv_tables import ED, TABLES
from tests.data.sources.test_challenge_2012 import OUTCOMES, STAYS, filler, tar
from tests.fuzz.one_line import PATIENT, SECRET, fuzz, result_or_line
from tests.fuzz.strategies import JSON, damaged, encoded, parquets, with_cells


def check(source, raw, **options):
    """Extract, and count what came out."""
    out = raw.parent / "events"
    out.mkdir()
    try:
        summary = result_or_line(source.extract, raw, out, seed=0, **{"splits": (1.0, 0.0, 0.0), **options})
        if summary is not None:
            assert summary["events"] == sum(
                pq.ParquetFile(p).metadata.num_rows for p in (out / "data").rglob("*.parquet")
            )
            assert all(n >= 0 for n in summary["dropped"].values())
    finally:
        shutil.rmtree(raw.parent)


CODES = ["GENDER//F", "MEDS_BIRTH", "HOSPITAL_ADMISSION//X", "LAB//1", "//", "MEDS_DEATH", "Ω\n", "HOSPITAL_DISCHARGE"]
MEDS = (
    table(
        [(PATIENT + i % 3, None if i % 8 == 0 else i, CODES[i % 8], i / 3 if i % 8 == 3 else None) for i in range(48)]
    )
    .drop_columns(["text_value"])
    .append_column("text_value", pa.array([SECRET] * 48))
)
SPLITS = pa.table({"subject_id": [PATIENT, PATIENT + 1, PATIENT + 2], "split": ["train", "tuning", "held_out"]})
CODES_TABLE = pa.table(
    {"code": CODES, "description": ["about"] * 8, "parent_codes": pa.array([["LAB//1"], None, [], ["//"]] * 2)}
)


@fuzz(50)
@given(
    data=st.lists(parquets(MEDS), min_size=1, max_size=2),
    folder=st.sampled_from(["", "train", "tuning", "x/y"]),
    splits=st.none() | parquets(SPLITS),
    codes=st.none() | parquets(CODES_TABLE),
    about=st.none() | JSON | JSON.map('{{"license": {0}, "code_modifier_columns": {0}}}'.format),
    dialect=st.sampled_from([None] * 6 + [*dialects.NAMES, "a\nb"]),
)
def test_meds(tmp_path_factory, data, folder, splits, codes, about, dialect):
    raw = tmp_path_factory.mktemp("meds") / "raw"
    (raw / "data" / folder).mkdir(parents=True)
    (raw / "metadata").mkdir()
    for i, content in enumerate(data):
        (raw / "data" / folder / f"{i}.parquet").write_bytes(content)
    for name, content in {"subject_splits.parquet": splits, "codes.parquet": codes, "dataset.json": about}.items():
        if content is not None:
            content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            (raw / "metadata" / name).write_bytes(content)
    check(meds, raw, dialect=dialect)


EVERY = TABLES | ED | {"hosp/d_labitems": "itemid,label\n50912,Creatinine\n"}


def as_parquet(text):
    """st: the table as parquet, with types that were guessed, and edited."""
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return parquets(pyarrow.csv.read_csv(io.BytesIO(text.encode()), parse_options=options))


@st.composite
def mimic_file(draw, name):
    """Suffix and content of one table."""
    suffix = draw(st.sampled_from([".csv", ".csv.gz", ".parquet"]))
    if suffix == ".parquet":
        return suffix, draw(as_parquet(EVERY[name]))
    data = draw(encoded(draw(with_cells(EVERY[name]))))
    if suffix == ".csv.gz":
        data = gzip.compress(data, 1, mtime=0)
    return suffix, draw(damaged(data))


@fuzz(35)
@given(
    changed=st.lists(st.sampled_from(sorted(EVERY)), min_size=1, max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: mimic_file(name) for name in names})
    ),
    lost=st.sampled_from(["", "", "", *sorted(EVERY)]),
    preset=st.sampled_from(["clean", "ethos_ares", "ethos_paper"]),
    patience=st.sampled_from([0.01, 1.0]),  # with it, what is bad in these small tables is not refused
)
def test_mimic(tmp_path_factory, changed, lost, preset, patience):
    raw = tmp_path_factory.mktemp("mimic") / "raw"
    for name in set(EVERY) - {lost}:
        suffix, data = changed.get(name, (".csv", EVERY[name].encode()))
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / f"{name}{suffix}").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BAD_SHARE", patience)
        check(mimic, raw, preset=preset)


NUMBERS = {record: str(PATIENT + int(record)) for record in STAYS}
RECORDS = {n: STAYS[record].replace(f"RecordID,{record}", f"RecordID,{n}") for record, n in NUMBERS.items()}
OUTCOME = OUTCOMES
for record, n in NUMBERS.items():
    OUTCOME = OUTCOME.replace(f"\n{record},", f"\n{n},")
OTHERS = {s: filler(record) for s, record in (("b", "21"), ("c", "31"))}


@fuzz(50)
@given(
    stay=with_cells(RECORDS[NUMBERS["11"]], 1),
    outcomes=with_cells(OUTCOME, 1).flatmap(encoded),
    archive=st.data(),
)
def test_challenge_2012(tmp_path_factory, stay, outcomes, archive):
    raw = tmp_path_factory.mktemp("challenge") / "raw"
    raw.mkdir()
    packed = gzip.decompress(tar({**RECORDS, NUMBERS["11"]: stay.encode("utf-8", "replace").decode()}))
    packed = archive.draw(damaged(packed))
    (raw / "set-a.tar.gz").write_bytes(archive.draw(damaged(gzip.compress(packed, 1, mtime=0))))
    (raw / "Outcomes-a.txt").write_bytes(outcomes)
    for s, (text, outcome) in OTHERS.items():
        (raw / f"set-{s}.tar.gz").write_bytes(tar({s: text}))
        (raw / f"Outcomes-{s}.txt").write_text(outcome)
    check(challenge_2012, raw)
