import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import rankdata

from ehr_scaling.data import sources
from ehr_scaling.data.events import events
from ehr_scaling.data.sources.synthetic import patients as synthetic
from ehr_scaling.data.sources.synthetic import tables as hospital
from ehr_scaling.errors import UserError

DAY = 1440


def _extract(tmp_path, name, **options):
    out = tmp_path / name
    out.mkdir()
    summary = synthetic.extract(None, out, **{"seed": 0, "patients": 300, **options})
    return out, summary


def _read(out):
    return pa.concat_tables([pq.read_table(p) for split in events.SPLITS for p in events.shards(out, split)])


def _digest(out):
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.parquet"))}


def _family(code, name, size):
    return (code >= hospital.code_of[name]) & (code < hospital.code_of[name] + size)


def _auroc(score, label):
    ranks, n = rankdata(score), label.sum()
    return (ranks[label].sum() - n * (n + 1) / 2) / (n * (len(label) - n))


@pytest.fixture(scope="module")
def stays():
    """One row a hospital stay of 8,000 patients, with what was written down in its first 24 hours."""
    columns: dict[str, list[np.ndarray]] = {}
    for index in range(4):
        patient, minute, code, value = synthetic.block(seed=11, index=index)
        code = code.astype(int)
        admitted = np.flatnonzero(_family(code, "admission", 9))
        left = np.flatnonzero(_family(code, "discharge", len(hospital.DISCHARGES)))
        assert (patient[admitted] == patient[left]).all() and (minute[left] > minute[admitted]).all()
        stay = np.searchsorted(admitted, np.arange(len(code)), side="right") - 1
        early = (stay >= 0) & (minute - minute[admitted[stay]] <= DAY)

        n = len(admitted)

        def of_first_day(rows, weights=None, stay=stay, n=n):
            return np.bincount(stay[rows], weights, n)

        lactate = early & (code == hospital.CODES.index("LAB//50813//MMOL/L"))
        rate = early & (code == hospital.CODES.index("VITAL//RESPIRATORY_RATE"))
        same = np.append(patient[admitted[1:]] == patient[left[:-1]], False)
        row = {
            "patient": patient[admitted] + index * synthetic.BLOCK,
            "days": (minute[left] - minute[admitted]) / DAY,
            "died": code[left] == hospital.code_of["discharge"] + hospital.DISCHARGES.index("DIED"),
            "gap": np.where(same, np.append(minute[admitted[1:]] - minute[left[:-1]], 0) / DAY, np.inf),
            "icu": np.bincount(stay[_family(code, "icu_in", len(hospital.ICUS))], minlength=len(admitted)) > 0,
            "early_icu": of_first_day(early & _family(code, "icu_in", len(hospital.ICUS))),
            "gas": of_first_day(lactate),
            "lactate": of_first_day(lactate, value[lactate]) / np.maximum(of_first_day(lactate), 1),
            "breaths": of_first_day(rate, value[rate]) / np.maximum(of_first_day(rate), 1),
        }
        for key, x in row.items():
            columns.setdefault(key, []).append(x)
    return {key: np.concatenate(parts) for key, parts in columns.items()}


def test_same_seed_same_files_other_seed_other_patients(tmp_path):
    one, two, other = (_extract(tmp_path, name, seed=seed)[0] for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert _digest(one) == _digest(two)
    assert _digest(one) != _digest(other)
    assert _read(other)["code"].to_pylist()[:500] != _read(one)["code"].to_pylist()[:500]


def test_more_patients_keep_the_earlier_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK", 200)  # so that few patients span blocks
    few, many = _read(_extract(tmp_path, "few", patients=250)[0]), _read(_extract(tmp_path, "many", patients=500)[0])
    kept = many.filter(pc.less(many["subject_id"], synthetic.FIRST_ID + 250))
    assert len(pc.unique(many["subject_id"])) == 500
    assert kept.sort_by("subject_id").equals(few.sort_by("subject_id"))


def test_events_are_meds_in_the_order_of_tokens(tmp_path):
    out, summary = _extract(tmp_path, "events", patients=600)
    assert sum(summary["patients"].values()) == 600 and summary["generated"] is True
    total = 0
    for split in events.SPLITS:
        for path in events.shards(out, split):
            table = pq.read_table(path)
            assert table.schema.equals(events.SCHEMA)
            total += len(table)
            subject, time = table["subject_id"].to_numpy(), table["time"].cast(pa.int64()).to_numpy()
            code, value = np.array(table["code"].to_pylist()), table["numeric_value"].to_numpy()
            same = subject[1:] == subject[:-1]
            assert (subject[1:] >= subject[:-1]).all()
            # Nulls arrive as NaN and come first; after them time never falls
            static = np.isnan(time)
            assert not (same & static[1:] & ~static[:-1]).any()
            assert (time[1:] >= time[:-1])[same & ~static[:-1]].all()
            kind = np.array([c.partition("//")[0] for c in code])
            assert set(kind[static]) == {"GENDER", "RACE", "INSURANCE", "MARITAL"}
            assert (static.sum(), (code == "MEDS_BIRTH").sum()) == (
                4 * len(np.unique(subject)),
                len(np.unique(subject)),
            )
            assert (~np.isnan(value) == np.isin(kind, ["LAB", "VITAL"])).all()
            # Death in hospital comes right before the discharge of the same minute, and nothing but diagnoses after
            died = np.flatnonzero(code == "HOSPITAL_DISCHARGE//DIED")
            assert (code[died - 1] == "MEDS_DEATH").all() and (time[died] == time[died - 1]).all()
            death = np.flatnonzero(code == "MEDS_DEATH")
            after = np.concatenate([np.arange(d + 1, np.searchsorted(subject, subject[d], "right")) for d in death])
            assert set(kind[after]) <= {"HOSPITAL_DISCHARGE", "DIAGNOSIS"}
            assert (np.bincount(np.searchsorted(np.unique(subject), subject[death])) <= 1).all()
            assert (np.cumsum(kind == "ICU_ADMISSION") >= np.cumsum(kind == "ICU_DISCHARGE")).all()
            assert (kind == "ICU_ADMISSION").sum() == (kind == "ICU_DISCHARGE").sum()
            # Admission opens a stay and discharge closes it
            moves = kind[np.isin(kind, ["HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE"])]
            assert (moves[::2] == "HOSPITAL_ADMISSION").all() and (moves[1::2] == "HOSPITAL_DISCHARGE").all()
    assert total == summary["events"]


def test_ids_are_nobodys_in_mimic(tmp_path):
    """MIMIC-IV's patients, hospital stays and ICU stays have 10 to 39 million; its generated files 40 to 69 million."""
    ids = _read(_extract(tmp_path, "events")[0])["subject_id"].to_numpy()
    assert len(np.unique(ids)) == 300 and ids.min() >= 70_000_000


def test_rates_are_those_of_a_hospital(stays):
    alive = ~stays["died"]
    assert 2.0 < len(stays["died"]) / len(np.unique(stays["patient"])) < 2.6
    assert 0.02 < stays["died"].mean() < 0.04
    assert 0.12 < stays["icu"].mean() < 0.18
    assert 0.17 < (stays["gap"][alive] < 30).mean() < 0.23
    assert 3.7 < np.median(stays["days"]) < 4.9
    assert 0.9 < np.log(stays["days"]).std() < 1.2
    assert stays["died"][stays["icu"]].mean() > 8 * stays["died"][~stays["icu"]].mean()


def test_death_depends_on_what_the_first_day_shows(stays):
    there = stays["days"] > 1
    died = stays["died"][there]
    sick = {key: stays[key][there] for key in ("early_icu", "gas", "lactate", "breaths")}
    score = 2 * sick["early_icu"] + 0.5 * sick["gas"] + 0.3 * sick["lactate"] + 0.15 * sick["breaths"]
    assert _auroc(score, died) > 0.75
    # Dose and response: more deaths in each fourth of the breathing rate, which is one noisy sign among many
    fourth = np.searchsorted(np.quantile(sick["breaths"][sick["breaths"] > 0], [0.25, 0.5, 0.75]), sick["breaths"])
    share = [died[(fourth == q) & (sick["breaths"] > 0)].mean() for q in range(4)]
    assert share[3] > 2 * share[0] and share[3] == max(share)


def test_values_persist_and_drugs_answer_them():
    patient, minute, code, value = synthetic.block(seed=5, index=0)
    for name, least in (("LAB//50912//MG/DL", 0.6), ("LAB//51222//G/DL", 0.6)):
        rows = np.flatnonzero(code == hospital.CODES.index(name))
        soon = (patient[rows[1:]] == patient[rows[:-1]]) & (np.diff(minute[rows]) < 3 * DAY)
        ranks = rankdata(value[rows])
        assert np.corrcoef(ranks[1:][soon], ranks[:-1][soon])[0, 1] > least
    potassium = np.flatnonzero(code == hospital.CODES.index("LAB//50971//MEQ/L"))
    supplement = np.flatnonzero(code == hospital.CODES.index("MEDICATION//POTASSIUM_CHLORIDE//ADMINISTERED"))
    key = patient * 2**32 + minute
    next_drug = np.searchsorted(key[supplement], key[potassium])
    wait = np.append(key[supplement], 2**62)[next_drug] - key[potassium]
    low = value[potassium] < np.quantile(value[potassium], 0.1)
    assert (wait[low] < 120).mean() > 0.6
    assert (wait[value[potassium] > np.median(value[potassium])] < 120).mean() < 0.05


def test_frequencies_fall_like_zipf():
    _, _, code, _ = synthetic.block(seed=5, index=0)
    counts = np.bincount(code[_family(code, "diagnosis", hospital.D)] - hospital.code_of["diagnosis"])
    counts = np.sort(counts)[::-1]
    slope = np.polyfit(np.log(np.arange(1, 41)), np.log(counts[:40]), 1)[0]
    assert -1.6 < slope < -0.6


def test_the_hospital_is_the_same_for_every_seed(tmp_path):
    codes = [
        set(pc.unique(_read(_extract(tmp_path, str(s), seed=s, patients=2000)[0])["code"]).to_pylist()) for s in (1, 2)
    ]
    assert codes[0] | codes[1] <= set(hospital.CODES)
    assert len(codes[0] ^ codes[1]) <= 3 and len(hospital.CODES) == len(set(hospital.CODES))


def test_inputs_and_errors(tmp_path):
    assert synthetic.inputs(None, patients=50) == {"source": "synthetic", "version": synthetic.VERSION, "patients": 50}
    assert sources.get("synthetic").extract is synthetic.extract
    for call, words in (
        (lambda: synthetic.inputs(tmp_path), "reads no files"),
        (lambda: synthetic.extract(None, tmp_path, seed=0, patients=5), "patients=5"),
        (lambda: synthetic.extract(None, tmp_path, seed=-1), "seed=-1"),
    ):
        with pytest.raises(UserError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
