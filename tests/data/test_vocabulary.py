import json

import numpy as np
import pytest

from ehr_scaling.data import vocabulary
from ehr_scaling.data.vocabulary import AGES, SPECIAL, Vocabulary, split_code
from ehr_scaling.errors import UserError


@pytest.mark.parametrize(
    ("code", "path"),
    {
        "DIAGNOSIS//ICD//10//I50": "ICD10CM//I50",
        "DIAGNOSIS//ICD//10//I5022": "ICD10CM//I50 ICD10CM//3-6//22",
        "DIAGNOSIS//ICD//10//S72.001A": "ICD10CM//S72 ICD10CM//3-6//001 ICD10CM//SFX//A",
        "DIAGNOSIS//ICD//9//4280": "ICD9CM//428 ICD9CM//SFX//0",
        "DIAGNOSIS//ICD//9//V1082": "ICD9CM//V10 ICD9CM//SFX//82",
        "DIAGNOSIS//ICD//9//E8120": "ICD9CM//E812 ICD9CM//SFX//0",
        "PROCEDURE//ICD//10//0210093": " ".join(f"ICD10PCS//{c}" for c in "0210093"),
        "PROCEDURE//ICD//9//3893": "ICD9PCS//38 ICD9PCS//SFX//93",
        "HOSPITAL_ADMISSION//URGENT//CLINIC": "HOSPITAL_ADMISSION ADMISSION_TYPE//URGENT",
        "HOSPITAL_ADMISSION": "HOSPITAL_ADMISSION",
        "HOSPITAL_DISCHARGE//HOME": "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HOME",
        "HOSPITAL_DISCHARGE": "HOSPITAL_DISCHARGE",
        "HOSPITAL_DISCHARGE//": "HOSPITAL_DISCHARGE",
        "ICU_ADMISSION//MICU": "ICU_ADMISSION ICU_TYPE//MICU",
        "ICU_DISCHARGE//MICU": "ICU_DISCHARGE",
        "TRANSFER_TO//transfer//WARD": "TRANSFER//WARD",
        "TRANSFER_TO//ADMIT//WARD": "TRANSFER//WARD",
        "TRANSFER_TO//admit//": "TRANSFER//UNKNOWN",
        "TRANSFER_TO//ED//WARD": "",
        "TRANSFER_TO//discharge//": "",
        "DRG//HCFA//0871//SEPTICEMIA": "DRG//871",
        "DRG//APR//720//SEPTICEMIA": "",
        "MEDICATION//HEPARIN//Administered": "MED//HEPARIN",
        "MEDICATION//HEPARIN": "MED//HEPARIN",
        "MEDICATION//HEPARIN//Not Given": "",
        "MEDICATION//HEPARIN//HOLD_DOSE": "",
        "MEDICATION//HEPARIN//NOT_GIVEN_PER_SLIDING_SCALE": "",
        "MEDS_DEATH//IN_HOSPITAL": "MEDS_DEATH",
        "BMI_(KG/M2)": "BMI",
        "LAB//50912//MG/DL": "LAB//50912//MG/DL",
        "ED_OUT": "ED_OUT",
        "PAD": "UNK",  # a source cannot reach the tokens that have a meaning of their own
        "TIME//1h-2h": "UNK",
    }.items(),
)
def test_paths(code, path):
    assert split_code(code) == tuple(path.split())


def make(*codes, **fields):
    tokens = (*SPECIAL, *AGES, *codes)
    given = {"counts": (0,) * len(tokens), "context_slots": (), "quantiles": {}, "interval_seconds": (), "settings": {}}
    return Vocabulary(tokens, **{**given, **fields})


def test_fallback_chain():
    v = make(
        "ICD10CM//I50", "ICD10CM//3-6//22", "ICD10CM//UNK", "HOSPITAL_ADMISSION", "ADMISSION_TYPE//UNK",
        "LAB//50912", "LAB//UNK", "OBS", "ICD10PCS//0", "ICD10PCS//UNK",
    )  # fmt: skip

    def names(code):
        ids, fallback = v.encode(split_code(code))
        return [v.tokens[i] for i in ids], fallback

    assert names("DIAGNOSIS//ICD//10//I5022") == (["ICD10CM//I50", "ICD10CM//3-6//22"], False)
    assert names("DIAGNOSIS//ICD//10//I5023") == (["ICD10CM//I50"], True)
    assert names("DIAGNOSIS//ICD//10//I5023XXA") == (["ICD10CM//I50"], True)
    assert names("DIAGNOSIS//ICD//10//J4422") == (["ICD10CM//UNK"], True)  # the rest of an unknown one says nothing
    assert names("PROCEDURE//ICD//10//00X0000") == (["ICD10PCS//0"] * 2, True)
    assert names("PROCEDURE//ICD//10//X000000") == (["ICD10PCS//UNK"], True)
    assert names("HOSPITAL_ADMISSION//NEW//X") == (["HOSPITAL_ADMISSION", "ADMISSION_TYPE//UNK"], True)
    assert names("LAB//50912//MG/DL") == (["LAB//50912"], True)
    assert names("LAB//1//MG/DL") == (["LAB//UNK"], True)
    assert names("OBS//X") == (["OBS"], True)
    assert names("OTHER//X") == (["UNK"], True)
    assert names("TIME") == (["UNK"], True)
    assert names("AGE//UNKNOWN//X") == (["UNK"], True)


def test_saved_vocabulary_reads_back_exactly(tmp_path):
    breaks = tuple(float(x) for x in np.float32([0.1, 1 / 3, 1e-7, 3.4e38]))
    v = make("A", "B//UNK", quantiles={"A": breaks}, context_slots=("GENDER",), interval_seconds=(1 / 3,) * 13)
    v.save(tmp_path)
    assert vocabulary.load(tmp_path) == v
    assert v.context_tokens == 2
    assert v.unknown_ids.tolist() == [1, len(v.tokens) - 1]
    assert json.loads((tmp_path / "vocabulary.json").read_text())["tokens"][0] == "PAD"


def test_wide_vocabulary_takes_wider_tokens():
    assert make().dtype == np.uint16
    assert make(*(f"X{i}" for i in range(1 << 16))).dtype == np.uint32


def test_damaged_vocabulary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        vocabulary.load(tmp_path)
    for text in ("{", '{"tokens": []}', '{"tokens": 3}', "[]"):
        (tmp_path / "vocabulary.json").write_text(text)
        with pytest.raises(UserError, match=r"vocabulary\.json"):
            vocabulary.load(tmp_path)
