import json

import numpy as np
import pytest

from ehr_scaling.data import vocabulary
from ehr_scaling.data.vocabulary import AGES, SPECIAL, Vocabulary, intervals
from ehr_scaling.errors import UserError


def make(*codes, **fields):
    tokens = (*SPECIAL, *AGES, *codes)
    given = {"counts": (0,) * len(tokens), "context_slots": (), "quantiles": {}, "interval_seconds": (), "settings": {}}
    return Vocabulary(tokens, **{**given, **fields})


def test_fallback_chain():
    v = make(
        "ICD10CM//I50", "ICD10CM//3-6//22", "ICD10CM//UNK", "HOSPITAL_ADMISSION", "ADMISSION_TYPE//UNK",
        "LAB//50912", "LAB//UNK", "OBS", "ICD10PCS//0", "ICD10PCS//UNK",
    )  # fmt: skip

    def names(*path, unseen="parent", ancestors=()):
        ids, fallback = v.encode([path], unseen, ancestors)
        return [v.tokens[i] for i in ids], fallback

    icd = ("ICD10CM//I50", "ICD10CM//3-6//22")
    assert names(*icd) == (list(icd), False)
    assert names("ICD10CM//I50", "ICD10CM//3-6//23") == (["ICD10CM//I50"], True)
    assert names("ICD10CM//I50", "ICD10CM//3-6//23", "ICD10CM//SFX//A") == (["ICD10CM//I50"], True)
    assert names("ICD10CM//J44", icd[1]) == (["ICD10CM//UNK"], True)  # the rest of an unknown one says nothing
    assert names("ICD10PCS//0", "ICD10PCS//0", "ICD10PCS//X") == (["ICD10PCS//0"] * 2, True)
    assert names("ICD10PCS//X", "ICD10PCS//0") == (["ICD10PCS//UNK"], True)
    assert names("HOSPITAL_ADMISSION", "ADMISSION_TYPE//X") == (["HOSPITAL_ADMISSION", "ADMISSION_TYPE//UNK"], True)
    assert names("LAB//50912//MG/DL") == (["LAB//50912"], True)
    assert names("LAB//1//MG/DL") == (["LAB//UNK"], True)
    assert names("OBS//X") == (["OBS"], True)
    assert names("OTHER//X") == (["UNK"], True)
    assert names("TIME") == (["UNK"], True)
    assert names("AGE//UNKNOWN//X") == (["UNK"], True)
    # Other ways to treat what is not known
    assert names("LAB//1//MG/DL", unseen="drop") == ([], True)
    assert names("ICD10PCS//0", "ICD10PCS//X", unseen="drop") == ([], True)
    assert names("ICD10CM//I50", "ICD10CM//3-6//23", unseen="prefix") == (["ICD10CM//I50"], True)
    assert names("ICD10CM//J44", icd[1], unseen="prefix") == ([], True)
    assert names("LAB//1//MG/DL", unseen="LAB//50912") == (["LAB//50912"], True)
    assert names("LAB//1//MG/DL", unseen="LAB//2") == (["LAB//UNK"], True)
    assert names("HOSPITAL_ADMISSION", "ADMISSION_TYPE//X", unseen="UNK") == (["HOSPITAL_ADMISSION", "UNK"], True)
    # The nearest ancestor that is known comes before the prefix, but only for what is itself not known.
    above = [[("X",)], [icd], [("OBS",)]]
    assert names("LAB//1//MG/DL", ancestors=above) == (list(icd), True)
    assert names("OBS", ancestors=above) == (["OBS"], False)


def test_several_paths_fail_one_by_one():
    v = make("ATC//A10", "ATC//4//B", "ATC//N02")
    paths = [("ATC//A10", "ATC//4//B"), ("ATC//X01", "ATC//4//B"), ("ATC//N02", "ATC//4//C")]
    assert [v.tokens[i] for i in v.encode(paths, "prefix")[0]] == ["ATC//A10", "ATC//4//B", "ATC//N02"]


def test_intervals_of_the_published_programs():
    day = 1440 * 60_000_000
    paper, ares = intervals(13), intervals(19, bare=True)
    names = "5m-15m 15m-1h 1h-2h 2h-6h 6h-12h 12h-1d 1d-3d 3d-1w 1w-2w 2w-1mt 1mt-3mt 3mt-6mt 6mt"
    assert " ".join(paper) == " ".join(f"TIME//{name}" for name in names.split(" "))
    names = (
        "5m-15m 15m-45m 45m-1h15m 1h15m-2h 2h-3h 3h-5h 5h-8h 8h-12h 12h-18h 18h-1d 1d-2d 2d-4d 4d-7d 7d-12d 12d-20d "
        "20d-30d 30d-2mt 2mt-6mt =6mt"
    )
    assert " ".join(ares) == names
    assert [ares[n] / day for n in ("18h-1d", "1d-2d", "30d-2mt", "2mt-6mt", "=6mt")] == [0.75, 1, 30, 60, 180]
    assert list(intervals(13, bare=True).values()) == list(paper.values())
    assert intervals([60, 90, 1440]) == {
        "TIME//1h-1h30m": day // 24, "TIME//1h30m-1d": day // 16, "TIME//1d": day,
    }  # fmt: skip


def test_saved_vocabulary_reads_back_exactly(tmp_path):
    breaks = tuple(float(x) for x in np.float32([0.1, 1 / 3, 1e-7, 3.4e38]))
    v = make("A", "B//UNK", quantiles={"A": breaks}, context_slots=("GENDER",), interval_seconds=(1 / 3,) * 13)
    v.save(tmp_path)
    assert vocabulary.load(tmp_path) == v
    assert v.context_tokens == 2
    assert v.unknown_ids.tolist() == [1, len(v.tokens) - 1]
    assert json.loads((tmp_path / "vocabulary.json").read_text())["tokens"][0] == "PAD"


def test_fingerprint_tells_vocabularies_apart():
    v = make("A", "B", quantiles={"A": (1.0,)})
    counted = make("A", "B", quantiles={"A": (1.0,)}, counts=(1,) * 47, interval_seconds=(1.0,) * 13)
    assert counted.fingerprint == v.fingerprint
    others = [
        make("B", "A", quantiles={"A": (1.0,)}),
        make("A", "B", quantiles={"A": (2.0,)}),
        make("A", "B", quantiles={"A": (1.0,)}, context_slots=("A",)),
        make("A", "B", quantiles={"A": (1.0,)}, settings={"context_only": []}),
    ]
    assert len({v.fingerprint, *(o.fingerprint for o in others)}) == 5


def test_wide_vocabulary_takes_wider_tokens():
    assert make().dtype == np.uint16
    assert make(*(f"X{i}" for i in range(1 << 16))).dtype == np.uint32


def test_damaged_vocabulary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        vocabulary.load(tmp_path)
    make("A").save(tmp_path)
    good = json.loads((tmp_path / "vocabulary.json").read_text())
    bad = [{**good, "format": 1}, {**good, "tokens": [*good["tokens"][:-1], "B"]}, {**good, "bins": 9}]
    bad += [{k: v for k, v in good.items() if k != "intervals"}]
    for text in ("{", '{"tokens": []}', '{"tokens": 3}', "[]", *map(json.dumps, bad)):
        (tmp_path / "vocabulary.json").write_text(text)
        with pytest.raises(UserError, match=r"vocabulary\.json"):
            vocabulary.load(tmp_path)
