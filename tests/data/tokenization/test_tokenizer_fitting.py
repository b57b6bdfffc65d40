"""Statistics by shard, what is fitted on their sum, and what few patients have."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data import presets
from ehr_scaling.data.events import columns, events
from ehr_scaling.data.timelines import static_context
from ehr_scaling.data.tokenization import counting, fitting, rare, tokenizer
from ehr_scaling.data.tokenization.rare import BinCounts, _merge_bins
from ehr_scaling.data.vocabulary import SPECIAL, Vocabulary
from ehr_scaling.errors import UserError
from tests.data import made_up
from tests.data.made_up import DAY
from tests.data.tokenization.tokenized import MAPS, fit, names, one, tokenize


def collapsed(folder, parents=None, **options):
    v, again = fit(folder, parents=parents, **options), True
    while again:
        bins = rare.merge_bins(rare.count_bins(p, v, MAPS, parents or {}) for p in events.shards(folder, "train"))
        v, again = rare.collapse(v, bins)
    return v


def test_counts_are_those_of_the_events(tmp_path):
    shards = made_up.splits(patients=30)["train"]
    folder = made_up.write(tmp_path / "events", train=shards)
    found = counting.merge(counting.count(p, tokenizer.options(), MAPS) for p in events.shards(folder, "train"))
    timed, static, valued, who = (collections.Counter() for _ in range(4))
    for shard in shards:
        for history in shard.values():
            timed.update(code for time, code, _ in history if time is not None)
            static.update(code for time, code, _ in history if time is None)
            valued.update(code for time, code, value in history if time is not None and value is not None)
            who.update({code for _, code, _ in history})
    assert found.patients == sum(map(len, shards))
    assert found.codes == {c: (timed[c], static[c], valued[c], who[c]) for c in who}
    assert found.tokens["LAB//3//MG/DL"] == who["LAB//3//MG/DL"]
    heart = sum(any(c.startswith("DIAGNOSIS//ICD//10//I50") for _, c, _ in h) for s in shards for h in s.values())
    assert found.tokens["ICD10CM//I50"] == heart  # patients, whatever codes brought them there


def test_saved_counts_read_back_and_merge_in_any_order(tmp_path):
    odd = [(0, "LAB//1//MG/DL", 4.0), (0, "😀//\n", None), (0, "'\"\x00", None), (0, "x" * 10_000, 1.5)]
    train = [*made_up.splits(patients=20)["train"], {5_000_000: odd}]
    folder = made_up.write(tmp_path / "events", train=train)
    files = []
    for k, path in enumerate(events.shards(folder, "train")):
        files.append(tmp_path / f"{k}.npz")
        counting.count(path, tokenizer.options(), MAPS).save(files[-1])
    made = [
        fitting.fit(counting.merge(map(counting.Counts.load, order)), tokenizer.options({"min_count": 1}), MAPS)
        for order in (files, files[::-1])
    ]
    assert made[0] == made[1] == fit(folder, min_count=1)
    assert {"😀//\n", "'\"\x00", "x" * 10_000} <= set(made[0].tokens)
    files[0].write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(UserError, match=r"0\.npz is missing or damaged"):
        counting.Counts.load(files[0])


def test_one_patient_may_be_larger_than_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "_CHUNK", 50)
    history = [(i * DAY, "A", float(i)) for i in range(500)]
    v, part, stats = one(tmp_path, history, train={2: history, 3: history[:3]})
    assert (stats.events, len(names(v, part))) == (500, 500 + 499 + 1)


def test_fused_values(tmp_path):
    train = {i: [(0, "L", float(i)), (0, "M", float(i)), (0, "DIAGNOSIS//ICD//10//I5022", None)] for i in range(1, 41)}
    train[1] += [(0, "L", None), (0, "N", 3.0)]
    history = [(0, "L", 0.0), (0, "L", 1e9), (0, "L", None), (0, "N", 3.0), (0, "DIAGNOSIS//ICD//10//I5022", None)]
    v, part, _ = one(tmp_path, history, train=train, value_tokens="fused", bins=4)
    expect = ["L//Q1", "L//Q4", "L", "N", "ICD10CM//I50", "ICD10CM//3-6//22", "TIMELINE_END"]
    assert names(v, part) == expect
    assert [v.index[f"L//Q{k}"] - v.index["L//Q1"] for k in range(1, 5)] == [0, 1, 2, 3]
    assert v.quantile_tokens == ("Q1", "Q2", "Q3", "Q4") and "L//Q5" not in v.index


def test_only_the_most_frequent_labs(tmp_path):
    train = {1: [(0, f"LAB//{i}//X", float(j)) for i in range(5) for j in range(30 + i)] + [(0, "OBS", None)]}
    v, part, stats = one(
        tmp_path, [(0, "LAB//0//X", 1.0), *train[1][-60:]], train=train, top_labs=2, value_tokens="separate"
    )
    assert sorted(t for t in v.tokens if t.startswith("LAB")) == ["LAB//3//X", "LAB//4//X", "LAB//UNK"]
    assert names(v, part)[0] == "LAB//4//X" or names(v, part)[0] == "LAB//3//X"
    assert stats.silent == {"LAB: not in the vocabulary": 1}


def test_ancestors_stand_for_rare_codes(tmp_path):
    parents = {f"L{i}": ["GROUP"] for i in range(4)} | {"GROUP": ["ALL"], "ALL": ["GROUP"], "NEW": ["GROUP"]}
    parents |= {"LONE": ["NOBODY"], "NOBODY": []}
    train = {1 + i: [(0, f"L{i}", None), (0, "SEEN", None)] for i in range(4)}
    train[1] += [(0, "L0", None)] * 5
    history = [(0, c, None) for c in ("L0", "L1", "L2", "NEW", "LONE", "OTHER")]
    folder = made_up.write(tmp_path / "events", train=train, tuning={99: history})
    v = fit(folder, parents=parents, min_count=4)
    (part,), (stats,) = tokenize(folder, "tuning", v, parents=parents)
    assert names(v, part) == ["L0", "GROUP", "GROUP", "GROUP", "UNK", "UNK", "TIMELINE_END"]
    assert stats.fallbacks == 5
    assert v.counts[v.index["GROUP"]] == 3
    # By patients as well: five have the group, though none of its codes.
    few = collapsed(folder, parents=parents, min_count=1, min_patients=3)
    (part,), _ = tokenize(folder, "tuning", few, parents=parents)
    assert names(few, part) == ["GROUP"] * 4 + ["UNK"] * 2 + ["TIMELINE_END"]


def test_what_makes_no_token_is_counted(tmp_path):
    history = [
        (None, "MEDS_DEATH", None),
        (None, "GENDER//F", None),
        (0, "MEDS_BIRTH", None),
        (1, "GENDER//F", None),
        (1, "TRANSFER_TO//ED//X", None),
        (1, "DRG//APR//1//X", None),
        (1, "DRG//APR//2//X", None),
        (1, "MEDICATION//X//Not Given", None),
        (1, "A", None),
    ]
    _, _, stats = one(tmp_path, history)
    assert stats.silent == {
        "MEDS_DEATH: no time": 1,
        "TRANSFER_TO: repeats an admission or discharge": 1,
        "DRG: not of the system HCFA": 2,
        "MEDICATION: no dose: nothing was given": 1,
    }
    v, part, stats = one(tmp_path / "ares", [*history, (2, "LAB//1//X", None)], preset="ethos_ares")
    assert stats.silent["LAB: no value"] == 1
    assert names(v, part) == ["A", "TIMELINE_END"]


def test_a_family_of_few_is_not_told(tmp_path):
    train = {i: [(0, "A", None)] for i in range(20)}
    folder = made_up.write(tmp_path / "events", train=train, tuning={99: [(None, "SECRET//X", None), (0, "A", None)]})
    _, (stats,) = tokenize(folder, "tuning", fit(folder))
    assert stats.silent == {"other: no time": 1}


def few_and_many(k=10):
    """Train patients of whom fewer than k have: a code, a family, a static fact, a static family, high values."""
    train = {}
    for i in range(40):
        rare_one = i < k - 1
        train[i + 1] = [(None, "GENDER//F" if i % 2 else "GENDER//M", None), (None, "HEIGHT", 150.0 + i % 20)]
        train[i + 1] += [(None, "GENDER//RARE", None), (None, "TATTOO//ANCHOR", None)] if rare_one else []
        train[i + 1] += [(0, "MEDS_BIRTH", None), (DAY, "COMMON", None), (DAY, "LAB//1//X", float(i))]
        train[i + 1] += [(DAY, "DIAGNOSIS//ICD//10//I5022", None), (DAY, "LAB//3//X", 1.0)]
        # many events, few patients
        many = [
            "BARE", "SECRET//A", "LAB//2//X", "DIAGNOSIS//ICD//10//I5099", "DIAGNOSIS//ICD//10//Z999",
            "HOSPITAL_ADMISSION//ODD//X",
        ]  # fmt: skip
        train[i + 1] += [(DAY, code, None) for code in many for _ in range(20)] if rare_one else []
        train[i + 1] += [(DAY, "LAB//3//X", 2.0 + j) for j in range(30)] if rare_one else []
    train[1].append((2 * DAY, "MEDS_DEATH", None))
    return train


@pytest.mark.parametrize("values", ["separate", "fused"])
def test_what_few_patients_have_collapses(tmp_path, values):
    train = few_and_many()
    folder = made_up.write(tmp_path / "events", train=[{k: h for k, h in train.items() if k % 2 == j} for j in (0, 1)])
    v = collapsed(folder, min_patients=10, min_count=1, value_tokens=values)
    parts, _ = tokenize(folder, "train", v)
    have, prefix, pairs = collections.defaultdict(set), collections.defaultdict(set), collections.defaultdict(set)
    for part in parts:
        for p, subject in enumerate(part.subject_ids.tolist()):
            found = names(v, part, p)
            for token, following in zip(found, [*found[1:], ""], strict=True):
                have[token].add(subject)
                pairs[token, following if following.startswith("Q") else ""].add(subject)
            context = slice(part.context_offsets[p], part.context_offsets[p + 1])
            for token in part.context_tokens[context].tolist():
                prefix[v.tokens[token]].add(subject)
    assert have.pop("MEDS_DEATH") == {1}  # the outcome itself is exempt
    for token in v.special:
        have.pop(token, None)
    assert min(map(len, have.values())) >= 10
    assert min(len(who) for (_, q), who in pairs.items() if q) >= 10 if values == "separate" else True
    unknown = {f"{slot}//UNKNOWN" for slot in v.context_slots}
    assert min(len(who) for token, who in prefix.items() if token not in unknown) >= 10
    assert set(v.context_slots) == {"GENDER", "HEIGHT"}
    for word in ("BARE", "SECRET", "TATTOO", "ANCHOR", "RARE", "Z99", "ODD", "LAB//2"):
        assert not any(word in token for token in v.tokens), word
    assert 1 <= len(v.quantiles["LAB//1//X"]) <= 3 and v.quantiles["LAB//1//X"][0] >= 9
    assert "LAB//3//X" not in v.quantiles or len(v.quantiles["LAB//3//X"]) < 3
    assert dataclasses.replace(v, counts=()).fingerprint == v.fingerprint


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sets(st.integers(0, 5), max_size=6), max_size=30), st.integers(1, 12))
def test_merged_bins_hold_enough_patients(patients, least):
    gaps = collections.Counter()
    for own in filter(None, patients):
        steps = [-1, *sorted(own), 6]
        gaps.update(itertools.pairwise(steps))
    kept = _merge_bins((0.0, 1.0, 2.0, 3.0, 4.0), gaps, least)
    assert set(kept) <= {0.0, 1.0, 2.0, 3.0, 4.0} and list(kept) == sorted(kept)
    edges = [-1, *(int(b) for b in kept), 5]
    if kept:
        for low, high in itertools.pairwise(edges):
            assert sum(any(low < b <= high for b in own) for own in patients) >= least
    if all(sum(b in own for own in patients) >= least for b in range(6)):
        assert len(kept) == 5


def test_bin_counts_read_back(tmp_path):
    folder = made_up.write(tmp_path / "events", train=few_and_many())
    v = fit(folder, min_patients=10)
    bins = [rare.count_bins(p, v, MAPS) for p in events.shards(folder, "train")]
    bins[0].save(tmp_path / "b.npz")
    again = BinCounts.load(tmp_path / "b.npz")
    assert again.gaps == bins[0].gaps and (again.token_patients == bins[0].token_patients).all()
    with pytest.raises(UserError, match="no patient in the train split"):
        rare.merge_bins([])


def test_other_code_maps_are_refused(tmp_path):
    folder = made_up.write(tmp_path / "events", train={1: [(0, "A", None)]})
    v = fit(folder)
    with pytest.raises(UserError, match="code maps"):
        tokenize(folder, "train", v, MAPS._replace(files={"atc": "0"}))


def ares(folder, **options):
    v = fit(folder, preset="ethos_ares", **options)
    (part,), _ = tokenize(folder, "train", v)
    return v, part


def test_ethos_timelines(tmp_path):
    """Tokens of one event each, as the table of the program's events has them."""
    base = 30 * 366 * DAY
    train = {
        1: [
            (None, "GENDER//F", None),
            (base - 9 * DAY, "BMI", 20.0),
            (base, "HOSPITAL_ADMISSION//EW EMER.//X", None),
            (base, "INSURANCE//Medicare", None),
            (base, "MARITAL_STATUS//MARRIED", None),
            (base, "VITAL//BLOOD_PRESSURE//SYSTOLIC", 120.0),
            (base, "VITAL//BLOOD_PRESSURE//DIASTOLIC", 80.0),
            (base, "ACUITY", 4.0),
            (base, "ICU_ADMISSION//MICU", None),
            (base, "SOFA", 7.0),
            (base, "LAB//1//mg/dL", 5.0),
            (base, "LAB//1//mg/dL", None),
            (base, "BMI", 30.0),
            (base + 400 * DAY, "HOSPITAL_DISCHARGE//HOME", None),
            (base + 400 * DAY, "DRG//UNKNOWN", None),
        ],
        2: [(-DAY, "HCPCS//X", None), (DAY, "HCPCS//X", None), (DAY, "VITAL//BLOOD_PRESSURE//SYSTOLIC", None)],
    }
    v, part = ares(made_up.write(tmp_path / "events", train=train))
    assert " ".join(names(v, part)) == (
        "BMI//Q1 7d-12d HOSPITAL_ADMISSION ADMISSION_TYPE//OBSERVATION INSURANCE//MEDICARE VITAL//BLOOD_PRESSURE Q1 Q1 "
        "ACUITY Q4 ICU_ADMISSION ICU_TYPE//MICU SOFA Q4 LAB//1//MG/DL Q1 BMI//Q2 =6mt =6mt HOSPITAL_DISCHARGE "
        "DISCHARGE_LOCATION//HOME DRG//UNKNOWN TIMELINE_END"
    )
    # Begun by 1970; a missing pressure is a low one.
    assert names(v, part, 1) == ["HCPCS//X", "VITAL//BLOOD_PRESSURE", "Q1", "TIMELINE_END"]
    assert v.quantiles["BMI"] == (20.0, 30.0)
    assert not {"BMI", "LAB//UNK", "TIME//5m-15m", "MARITAL//UNK"} & set(v.tokens)
    assert v.context_slots == ("BMI", "GENDER", "MARITAL", "RACE")


def test_ethos_outside_train(tmp_path):
    """What has no title keeps its other parts in train alone; an unseen DRG is UNKNOWN, other unseen codes go."""
    known = [
        (0, "DIAGNOSIS//ICD//10//I5022", None),
        (0, "DIAGNOSIS//ICD//10//Z9922", None),
        (0, "MEDICATION//both//Administered", None),
    ]
    train = {1: [*known, (0, "DRG//HCFA//1//A", None), (0, "HCPCS//A", None)], 2: [(0, "DRG//UNKNOWN", None)]}
    new = {8: [*known, (0, "DRG//HCFA//2//B", None), (0, "HCPCS//B", None)]}
    folder = made_up.write(tmp_path / "events", train=train, tuning=new)
    code_maps = MAPS._replace(
        titles={"I50": "Heart failure"}, atc={"both": ("V04CC02", "A12CC02")}, atc_titles={"A12": "Minerals"}
    )
    v = fit(folder, code_maps, preset="ethos_ares")
    title, rest, other = "ICD//CM//HEART_FAILURE ICD//CM//3-6//22", "ICD//CM//3-6//22", "ATC//4//C ATC//SFX//C02"
    drug = f"ATC//A12//MINERALS {other}"
    (part,), _ = tokenize(folder, "train", v, code_maps)
    assert " ".join(names(v, part)) == f"{title} {rest} {other} {drug} DRG//1 HCPCS//A TIMELINE_END"
    (part,), (stats,) = tokenize(folder, "tuning", v, code_maps)
    assert " ".join(names(v, part)) == f"{title} {drug} DRG//UNKNOWN TIMELINE_END"
    assert stats.silent == {
        "DIAGNOSIS: not in the vocabulary": 1,
        "HCPCS: not in the vocabulary": 1,
    }


def test_ethos_prefixes(tmp_path):
    year = 365.25 * DAY
    born = int(2 * year)

    def at(age):
        return int(born + age * year + DAY)

    home = "HOSPITAL_DISCHARGE//HOME"
    train = {
        1: [(None, "GENDER//F", None), (born, "MEDS_BIRTH", None), (at(49.3), home, None), (at(50), "BMI", 20.0)],
        2: [(at(1), home, None), (at(2), "MARITAL_STATUS//SINGLE", None)],
    }
    train[1] += [(at(50), "MARITAL_STATUS//MARRIED", None), (at(60), "BMI", 30.0)]
    folder = made_up.write(tmp_path / "events", train=train)
    v, part = ares(folder)
    assert v.context_tokens == 6

    def prefix(v, part, owner, time):
        found = static_context.contexts(v, part, np.array([owner]), np.array([time]))[0]
        return " ".join(v.tokens[i] for i in found)

    # A slot's only value holds at all times; with several, those until then. 49.6 years are 4 tens and 10 units: 50.
    assert prefix(v, part, 0, at(49.3)) == "BMI//UNKNOWN GENDER//F MARITAL//MARRIED Q5 Q10 RACE//UNKNOWN"
    assert prefix(v, part, 0, at(49.7)) == "BMI//UNKNOWN GENDER//F MARITAL//MARRIED Q6 Q1 RACE//UNKNOWN"
    assert prefix(v, part, 0, at(55)) == "BMI//Q1 GENDER//F MARITAL//MARRIED Q6 Q6 RACE//UNKNOWN"
    assert prefix(v, part, 0, at(120)) == "BMI//Q2 GENDER//F MARITAL//MARRIED Q10 Q10 RACE//UNKNOWN"
    assert prefix(v, part, 1, at(1)) == "BMI//UNKNOWN GENDER//UNKNOWN MARITAL//SINGLE UNK UNK RACE//UNKNOWN"
    # What train did not know is left out, and the value before it holds.
    train = {7: [(at(1), home, None), (at(2), "MARITAL_STATUS//SINGLE", None), (at(3), "MARITAL_STATUS//NEW", None)]}
    other = made_up.write(tmp_path / "other", train={8: [(0, "A", None)]}, tuning=train)
    (new,), (stats,) = tokenize(other, "tuning", v)
    assert prefix(v, new, 0, at(4)).split()[2] == "MARITAL//SINGLE"
    assert stats.silent == {"MARITAL_STATUS: not in the vocabulary": 1}
    v = fit(folder, preset="ethos_paper")
    (part,), _ = tokenize(folder, "train", v)
    assert prefix(v, part, 0, at(3)) == "GENDER//F MARITAL//MARRIED RACE//UNKNOWN BMI//Q2 _<5 _5-10y"
    assert prefix(v, part, 0, at(101)) == "GENDER//F MARITAL//MARRIED RACE//UNKNOWN BMI//Q2 _>100 _>100"


@settings(deadline=None, max_examples=300)
@given(st.floats(0, 110))
def test_age_in_two_quantiles(years):
    """The program's arithmetic, in its own words, on whole days."""
    days = int(years * 365.25)
    v = tokenizer_vocabulary()
    found = static_context._ages(v, np.array([0]), np.array([days * DAY + DAY // 2]))[0]
    scaled = min(days / 365.25, 99)
    tens, units = int(scaled // 10), round(scaled % 10)
    if units == 10:
        tens, units = tens + 1, 0
    assert [v.tokens[i] for i in found] == [f"Q{tens + 1}", f"Q{units + 1}"]


def tokenizer_vocabulary():
    return Vocabulary(SPECIAL, (), (), {}, (), {"age": "two-quantiles"}, preset="ethos_ares")


def test_custom_intervals(tmp_path):
    history = [(0, "A", None), (10 * 60_000_000, "A", None), (DAY, "A", None), (4 * DAY, "A", None)]
    v, part, stats = one(tmp_path, history, intervals=[60, 1440])
    assert names(v, part) == ["A", "A", "TIME//1h-1d", "A", *["TIME//1d"] * 3, "A", "TIMELINE_END"]
    assert stats.interval_tokens.tolist() == [1, 3]
    for wrong in ([], [5, 5], [0, 5], 14, "13", [1.5]):
        with pytest.raises(UserError, match="intervals"):
            tokenizer.options({"intervals": wrong})


_CODES = [
    "GENDER//F", "RACE//X", "MEDS_BIRTH", "MEDS_DEATH", "LAB//1//mg/dL", "LAB//2//", "VITAL//BLOOD_PRESSURE//SYSTOLIC",
    "VITAL//BLOOD_PRESSURE//DIASTOLIC", "BMI", "SOFA", "ACUITY", "TRANSFER_TO//ED//X", "TRANSFER_TO//admit//X", "OTHER",
    "MEDICATION//X//Administered", "MEDICATION//X//Not Given", "DIAGNOSIS//ICD//9//4280", "DIAGNOSIS//ICD//10//I509",
    "MARITAL_STATUS//UNK", "INSURANCE//UNK", "HEIGHT", "Q1", "😀//", "DRG//UNKNOWN",
]  # fmt: skip
_events = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-(2**50), 2**55)),
        st.sampled_from(_CODES),
        st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, 1.0, 2.0])),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("preset", ["clean", "ethos_ares", "ethos_paper"])
@settings(deadline=None, max_examples=25)
@given(st.lists(_events, min_size=1, max_size=6), st.sampled_from(["separate", "fused"]), st.sampled_from([0, 2]))
def test_no_event_is_lost_silently(tmp_path_factory, preset, histories, values, least):
    """Every event makes tokens, or is told in the prefix, or is counted with the reason; every token is known."""
    order = lambda e: -(2**62) if e[0] is None else e[0]  # noqa: E731
    train = {i + 1: sorted(history, key=order) for i, history in enumerate(histories)}
    folder = made_up.write(tmp_path_factory.mktemp("any") / "events", train=train)
    v = collapsed(folder, preset=preset, value_tokens=values, min_count=1, min_values=1, min_patients=least)
    parts, stats = tokenize(folder, "train", v)
    told = sum(s.events + sum(s.silent.values()) for s in stats)
    rules, in_prefix = presets.rules(v.settings, MAPS), {*v.context_slots, "MEDS_BIRTH"}
    codes = [code for history in train.values() for _, code, _ in history]
    may_be_told = sum(tokenizer.slot_family(rules(code), code) in in_prefix for code in codes)
    total = sum(map(len, train.values()))
    assert total - may_be_told <= told <= total
    for part in parts:
        assert (part.tokens < len(v.tokens)).all() and (part.context_tokens < len(v.tokens)).all()
        assert 0 not in part.tokens and part.offsets[-1] == len(part.tokens) == len(part.times)
        firsts = part.times[part.offsets[:-1]]
        assert static_context.contexts(v, part, np.arange(len(firsts)), firsts).shape == (len(firsts), v.context_tokens)
