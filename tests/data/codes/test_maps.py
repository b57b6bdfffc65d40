"""Code maps: every form of file, the rules for several targets, and files that are not what they should be."""

import gzip
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.codes import map_files, maps
from ehr_scaling.data.codes.maps import CodeMaps, atc_one, category_title, icd10cm, icd10pcs, load
from ehr_scaling.errors import UserError

ORDER = "\n".join(
    f"{number:05d} {code:<7} {billable} {short:<60} {long}"
    for number, (code, billable, short, long) in enumerate(
        [
            ("A00", 0, "Cholera", "Cholera"),
            ("A000", 1, "Cholera 01", "Cholera due to Vibrio cholerae 01, biovar cholerae"),
        ],
        1,
    )
)
# Each is the same little map in another form: name, content, kind, what is read.
ICD9 = {"25000": ("E119",), "8052": ("S22009A", "S22019A")}
FORMS = [
    (
        "icd_cm_9_to_10_mapping.csv",
        "icd_9,icd_10,flags\n250.00,E11.9,10000\n8052,S22019A,10000\n8052,S22009A,10000\nV1,NoDx,11000\n",
        "icd9cm",
        ICD9,
    ),
    ("icd_cm_9_to_10_mapping.csv", "icd_10,icd_9\nE119,25000\nS22019A,8052\nS22009A,8052\nNoDx,V1\n", "icd9cm", ICD9),
    (
        "gem2018_icd9cm_to_icd10cm.csv",
        "source,target,flag\r\n25000,E119,10000\r\n8052,S22009A,10000\r\n8052,S22019A,0\r\nE8,NODX,11000\r\n",
        "icd9cm",
        ICD9,
    ),
    (
        "2018_I9gem.txt",
        "25000 E119    10000\n8052  S22009A 10000\n8052  S22019A 10000\nE849  NoDx    11000\n\n",
        "icd9cm",
        ICD9,
    ),
    (
        "icd_pcs_9_to_10_mapping.csv",
        "icd_9,icd_10,flags\n0001,6A750Z4,10000\n0009,NoPCS,11000\n",
        "icd9pcs",
        {"0001": ("6A750Z4",)},
    ),
    ("gem_i9pcs.txt", "0001 6A750Z4 10000\n0009 NoPCS   11000", "icd9pcs", {"0001": ("6A750Z4",)}),
    ("gem2018_icd9proc_to_icd10pcs.csv", "source,target,flag\n0001,6A750Z4,10000\n", "icd9pcs", {"0001": ("6A750Z4",)}),
    (
        "icd10cm-order-Jan-2021.csv",
        'code,billable,short,long\nA00,0,Cholera,"Cholera"\nA000,1,"a, b","c, d"\n',
        "titles",
        {"A00": "Cholera"},
    ),
    ("icd10cm_order_2021.txt", ORDER, "titles", {"A00": "Cholera"}),
    (
        "mimic_drug_to_atc.csv",
        "drug,atc_code\n Insulin ,A10AB01\ninsulin,A10AC01\nINSULIN,A10AB01\nAspirin,n02ba01\nnone,\n",
        "atc",
        {"insulin": ("A10AB01", "A10AC01"), "aspirin": ("N02BA01",)},
    ),
    ("our pharmacy.csv", "id,drug,atc_code\n1,aspirin,N02BA01\n", "atc", {"aspirin": ("N02BA01",)}),
    (
        "atc_coding.csv",
        "atc_code,atc_name\nA10,old\nA10,Drugs used in diabetes\n",
        "atc_titles",
        {"A10": "Drugs used in diabetes"},
    ),
    ("my ATC names.csv", "code,description\nA10,Diabetes\n", "atc_titles", {"A10": "Diabetes"}),
    (
        "gsn_atc_ndc_mapping.csv",
        "gsn,atc,ndc\n004380,B01AC06,1\n004380,B01AC06,2\n004380,N02BA01,3\n",
        "gsn",
        {"004380": ("B01AC06", "N02BA01")},
    ),
]


def rrf(*rows):
    """RXNCONSO.RRF, of rows (concept, vocabulary, code, name, suppressed)."""
    lines = [
        [concept, *[""] * 10, vocabulary, "IN", code, name, "", *rest, *[""] * 2]
        for concept, vocabulary, code, name, *rest in rows
    ]
    return "".join("|".join(fields) + "\n" for fields in lines)


FORMS.append(
    (
        "RXNCONSO.RRF",
        rrf(
            ("161", "RXNORM", "161", "Acetaminophen", "N"),
            ("161", "ATC", "N02BE01", "paracetamol", "N"),
            ("161", "MTHSPL", "362O9ITL9D", "ACETAMINOPHEN", "N"),
            ("161", "RXNORM", "161", "APAP", "Y"),
            ("1191", "RXNORM", "1191", "aspirin", "N"),
            ("1191", "ATC", "N02BA01", "acetylsalicylic acid", "N"),
            ("1191", "ATC", "B01AC06", "acetylsalicylic acid", "N"),
            ("9", "ATC", "N02B", "OTHER ANALGESICS AND ANTIPYRETICS", "N"),
            ("202433", "RXNORM", "202433", "Tylenol", "N"),
        ),
        "atc",
        {
            "acetaminophen": ("N02BE01",),
            "paracetamol": ("N02BE01",),
            "aspirin": ("N02BA01", "B01AC06"),
            "acetylsalicylic acid": ("N02BA01", "B01AC06"),
        },
    )
)


def folder(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "content", "kind", "expected"), FORMS)
def test_a_map_in_each_form(tmp_path, name, content, kind, expected, packed):
    data = content.encode("utf-8-sig")
    (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    (tmp_path / "notes.txt").write_text("not a map")
    (tmp_path / "d_labitems_to_loinc.csv").write_text("itemid,loinc\n1,2\n")
    (tmp_path / "2018_I10gem.txt").write_text("E119 25000 10000")
    (tmp_path / "gem2018_icd10cm_to_icd9cm.csv").write_text("source,target,flag\nE119,25000,10000\n")
    (tmp_path / "labevents.csv.gz").write_bytes(gzip.compress(b"labevent_id,itemid\n" + bytes(range(256)) * 999)[:-30])
    (tmp_path / "._atc_coding.csv").write_bytes(b"\x00\xff")
    found = load(tmp_path)
    assert getattr(found, kind) == expected
    assert list(found.files) == [kind]
    assert all(not getattr(found, field) for field in CodeMaps._fields if field not in (kind, "files"))


def test_no_folder_is_no_map_and_files_are_told_apart_by_content(tmp_path):
    assert not any(load(None))
    assert load(None).atc is not load(None).atc
    table = tmp_path / "a.csv"
    table.write_text("drug,atc_code\na,A10\n")
    first = load(tmp_path).files
    table.write_text("drug,atc_code\na,A11\n")
    assert load(tmp_path).files != first
    assert re.fullmatch(r"[0-9a-f]{64}", first["atc"])


BAD = {
    "no folder": (None, {}),
    "an empty folder": ("no code map", {}),
    "only other files": ("no code map", {"labs.csv": "itemid,loinc\n1,2\n", "readme.txt": "hello"}),
    "two of a kind": ("both maps of one kind", {"a.csv": "drug,atc_code\na,A10\n", "b.csv": "drug,atc_code\nb,A10\n"}),
    "ETHOS's and CMS's": (
        "2018_I9gem.txt and .*icd_cm_9_to_10_mapping.csv are both",
        {"2018_I9gem.txt": "25000 E119 10000", "icd_cm_9_to_10_mapping.csv": "icd_9,icd_10\n25000,E119\n"},
    ),
    "no gzip": ("damaged", {"atc_coding.csv.gz": "atc_code,atc_name\nA10,x\n"}),
    "no gzip of another name": ("cannot be read", {"x.csv.gz": "drug,atc_code\na,A10\n"}),
    "half a gzip": ("damaged", {"atc_coding.csv.gz": gzip.compress(b"atc_code,atc_name\nA10,x\n" * 99)[:-30]}),
    "bits flipped": ("damaged", {"atc_coding.csv.gz": gzip.compress(b"atc_code,atc_name\n")[:10] + b"\xff" * 20}),
    "UTF-16": ("row 1: not UTF-8", {"atc_coding.csv": "atc_code,atc_name\n".encode("utf-16")}),
    "Latin-1": ("row 2: not UTF-8", {"atc_coding.csv": "atc_code,atc_name\nA10,café\n".encode("latin-1")}),
    "RxNorm of other fields": (
        r"RXNCONSO\.RRF, row 2: not the 18 fields",
        {"RXNCONSO.RRF": rrf(("1", "ATC", "N02BE01", "x", "N")) + "161|ENG|\n"},
    ),
    "RxNorm without ATC": ("has no row", {"RXNCONSO.RRF": rrf(("1", "RXNORM", "1", "x", "N"))}),
    "RxNorm and a table": (
        "both maps of one kind",
        {"RXNCONSO.RRF": rrf(("1", "ATC", "N02BE01", "x", "N")), "a.csv": "drug,atc_code\na,A10\n"},
    ),
    "semicolons": ("lacks the columns", {"mimic_drug_to_atc.csv": "drug;atc_code\na;A10\n"}),
    "other columns": ("lacks the columns", {"icd10cm-order-2021.csv": "a,b\n1,2\n"}),
    "no bytes": ("lacks the columns", {"icd10cm-order-2021.csv": ""}),
    "a header alone": ("has no row", {"mimic_drug_to_atc.csv": "drug,atc_code\n"}),
    "only NoDx": ("has no row", {"2018_I9gem.txt": "E849 NoDx 11000"}),
    "a short row": ("row 3: a column is missing", {"a.csv": "drug,atc_code\na,A10\nb\n"}),
    "an open quote": ("row 3: a quote", {"a.csv": 'drug,atc_code\na,A10\n"b,A10\n'}),
    "a long field": ("a quote that does not close", {"a.csv": f"drug,atc_code\n{'x' * 200_000},A10\n"}),
    "no ATC": ("row 2: not an ATC code", {"a.csv": "drug,atc_code\na,123\n"}),
    "no ICD-9": ("row 2: not an ICD-9", {"icd_cm_9_to_10_mapping.csv": "icd_9,icd_10\n25000!,E119\n"}),
    "no ICD-10": ("row 2: not an ICD-9", {"icd_cm_9_to_10_mapping.csv": "icd_9,icd_10\n25000,diabetes mellitus\n"}),
    "no flags": ("row 2: the flags", {"icd_cm_9_to_10_mapping.csv": "icd_9,icd_10,flags\n25000,E119,approx\n"}),
    "an addendum": ("no code map", {"icd10cm_order_addenda_2021.txt": "Add: 123"}),
    "a text that is no GEM": ("row 1: not in the form", {"2018_I9gem.txt": "source,target,flag\n25000,E119,10000"}),
    "a text that is no order file": ("row 1: not in the form", {"icd10cm_order_2021.txt": "code,long\nA00,Cholera\n"}),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_line(tmp_path, case):
    expected, files = BAD[case]
    where = folder(tmp_path, **files) if expected else tmp_path / "absent"
    with pytest.raises(UserError, match=expected or "is no folder") as e:
        load(where)
    assert "\n" not in str(e.value)
    assert str(where) in str(e.value)


# Rows of nearly the right form, and bytes of any.
FIELD = st.one_of(
    st.sampled_from(["25000", "E119", "NoDx", "10000", "A10AB01", "A00", '"', "00001", "drug", "é"]),
    st.text(max_size=8),
)
HEADER = st.sampled_from(
    ["icd_9,icd_10,flags", "source,target,flag", "drug,atc_code", "gsn,atc,ndc", "code,long", "atc_code,atc_name"]
)
TABLE = st.builds(
    lambda header, rows, sep: "\n".join([header, *(sep.join(row) for row in rows)]).encode("utf-8", "surrogatepass"),
    HEADER,
    st.lists(st.lists(FIELD, max_size=5), max_size=6),
    st.sampled_from([",", " ", "  ", "\t", ";"]),
)
CONTENT = st.one_of(
    st.binary(max_size=200), TABLE, TABLE.map(gzip.compress), TABLE.map(lambda t: gzip.compress(t)[:-9])
)
NAME = st.sampled_from(
    sorted({name for name, *_ in FORMS} | {f"{name}.gz" for name, *_ in FORMS} | {"x.csv", "x.csv.gz"})
)


@settings(max_examples=400)
@given(NAME, CONTENT)
def test_any_bytes_are_a_map_or_no_map_or_one_line(name, data):
    try:
        parsed = map_files.parse(name, data, name)
    except UserError as e:
        assert "\n" not in str(e)
        return
    if parsed is not None:
        kind, table = parsed
        assert kind in CodeMaps._fields
        assert table


def several(cm=(), pcs=()):
    return load(None)._replace(icd9cm={"1234": tuple(cm)}, icd9pcs={"1234": tuple(pcs)})


@pytest.mark.parametrize(
    ("targets", "ares", "paper", "clean"),
    [
        ([], None, None, None),
        (["E119"], "E119", "E119", "E119"),
        (["T360X1A"], "T360X1A", "T360X1A", "T360X1A"),
        (["S12000A", "S12001A"], "S12", "S12000A", "S1200"),
        (["T360X1A", "T360X2A"], "T36", "T360X1A", "T360"),  # the X only fills a place
        (["E119", "E119"], "E11", "E119", "E119"),  # ETHOS counts rows
        (["A000", "I501", "I509"], "A00", "A000", "I50"),  # most of the targets
        (["E089", "E099", "E139"], "E08", "E089", "E089"),  # no most: the first
    ],
)
def test_several_targets_of_a_diagnosis(targets, ares, paper, clean):
    found = several(cm=targets)
    assert [icd10cm(found, "12.34", rule) for rule in ("ares", "paper", "clean")] == [ares, paper, clean]


@pytest.mark.parametrize(
    ("targets", "ares", "clean"),
    [
        ([], None, None),
        (["0DB60ZZ"], "0DB60ZZ", "0DB60ZZ"),
        (["0DB60ZX", "0DB60ZZ", "0DB64ZX"], "0DB60ZX", "0DB6"),
        (["0HBXXZX", "0HBXXZZ"], "0HBXXZX", "0HBXXZ"),  # here an X is an approach, or a qualifier
        (["021009W", "0DB60ZZ", "0DB70ZZ"], "021009W", "0DB"),
    ],
)
def test_several_targets_of_a_procedure(targets, ares, clean):
    found = several(pcs=targets)
    assert [icd10pcs(found, "12.34", rule) for rule in ("ares", "paper", "clean")] == [ares, ares, clean]


CODES = st.lists(st.text("ABX012", min_size=3, max_size=7), min_size=1, max_size=6).map(sorted)


@given(CODES)
def test_the_clean_rule_takes_a_prefix_of_a_target_that_is_a_category_at_least(targets):
    for found in (icd10cm(several(cm=targets), "1234", "clean"), icd10pcs(several(pcs=targets), "1234", "clean")):
        assert any(target.startswith(found) for target in targets)
        assert len(found) >= 3


def test_titles_of_categories():
    found = load(None)._replace(titles={"A00": "Cholera", "Z09": "Encounter for a long name"})
    assert category_title(found, "A00.1") == "Cholera"
    assert category_title(found, "Z09") != category_title(found, "Z09", "clean") == "Encounter for a long name"
    assert category_title(found, "U09.9") == category_title(found, "U099", "clean") == "Post COVID-19 condition"
    assert category_title(found, "U099", "paper") is None
    assert category_title(load(None), "U09") is None


def test_a_drug_is_looked_up_as_ethos_does():
    found = load(None)._replace(atc={"insulin": ("A10AB01", "A10AC01")})
    assert maps.atc(found, " InSulin ") == ("A10AB01", "A10AC01")
    assert maps.atc(found, "insulin glargine") == ()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((), None),
        (("A",), None),
        (("N02BA01",), "N02BA01"),
        (("N02BE01", "N02BE51"), "N02BE"),
        (("A10AB01", "A10AB04", "A10AB05", "A10AC01", "A10AD01", "A10AE04", "A10AE05", "A10AE06", "A10A"), "A10A"),
        (("C07AB02", "C07AG02"), "C07A"),
        (("C07AB02", "C07BB02"), "C07"),
        (("D07AA02", "H02AB09", "S01BA02"), "H02AB09"),  # hydrocortisone: the one that is for the whole body
        (("S01AA12", "J01GB01", "S01AA99"), "S01AA"),  # most of the codes are for the eye
        (("B05BA03", "V04CA02"), "V04CA02"),
        (("N05CD08", "N05CD08"), "N05CD08"),
    ],
)
def test_one_drug_is_one_path(codes, expected):
    assert atc_one(codes) == expected
    assert atc_one(codes[::-1]) == expected


def test_paths_of_ingredients_gather_the_spellings_of_the_table():
    table = {
        "metoprolol tartrate": ("C07AB02",),
        "metoprolol succinate xl": ("C07AB02",),
        "insulin glargine": ("A10AE04",),
        "humalog": ("A10AB04",),
        "foobarine": ("N01AX01",),
    }
    found = maps.atc_by_ingredient(load(None)._replace(atc=table))
    assert found == {"METOPROLOL": "C07AB02", "INSULIN": "A10A"}


@given(st.lists(st.from_regex(r"[A-DS][01][0-2][AB][AB]0[0-3]", fullmatch=True), min_size=1, max_size=9))
def test_the_one_path_is_a_level_of_one_of_the_codes(codes):
    one = atc_one(tuple(codes))
    assert len(one) in (3, 4, 5, 7)
    assert any(code.startswith(one) for code in codes)
