"""Simulated futures as MEDS events: what is written reads back as what was drawn, at the simulated times."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ehr_scaling.data.codes import maps
from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.data.vocabulary import AGES, DAY, END, HOUR, INTERVAL_BOUNDS, SPECIAL, UNK, Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.models.sizes import Shape
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.exchange import trajectories
from ehr_scaling.outcomes.sampler import simulate

CLOSE = float(np.nextafter(np.float32(2), np.float32(3)))  # nothing lies between 2 and this
QUANTILES = {
    "LAB//NINE": tuple(float(k) for k in range(1, 10)),
    "LAB//THREE": (-1.5, 2.0, CLOSE),
    "LAB//ONE": (7.0,),
    "LAB//CONSTANT": (),
    "VITAL//SBP": (100.0, 120.0),
    "VITAL//DBP": (60.0, 80.0, 90.0),
    "BMI": (20.0, 30.0),
}
_CODES = """MEDS_DEATH HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HOME
ICU_ADMISSION ICU_TYPE//MICU ICU_DISCHARGE ED_REGISTRATION ED_TRANSPORT//AMBULANCE ED_OUT LAB//NINE LAB//THREE LAB//ONE
LAB//CONSTANT LAB//NONE BMI MED//ASPIRIN TRANSFER//MICU ICD10CM//I50 ICD10CM//3-6//23 ICD10CM//3-6//230 ICD10CM//SFX//A
ICD10CM//UNK ICD9CM//428 ICD9CM//E850 ICD9CM//SFX//0 ICD9PCS//37 ICD9PCS//SFX//22 ICD10PCS//0 ICD10PCS//2 ICD10PCS//1
ATC//A10 ATC//4//A ATC//SFX//B01 VITAL//BLOOD_PRESSURE BMI//Q2 UNK//UNK"""
CODES = _CODES.split()
_ENDS = (*INTERVAL_BOUNDS[1:], 200 * DAY)
SECONDS = tuple(math.sqrt(a * b) / 1e6 for a, b in zip(INTERVAL_BOUNDS, _ENDS, strict=True))
BINS = [(code, len(QUANTILES[code]) + 1) for code in ("LAB//NINE", "LAB//THREE", "LAB//ONE")]
FUSED_BINS = [*BINS, ("BMI", 3)]


def vocabulary(value_tokens):
    fused = (
        [f"{code}//Q{k}" for code, bins in FUSED_BINS for k in range(1, bins + 1)] if value_tokens == "fused" else []
    )
    tokens = (*SPECIAL, *AGES, *(code for code in CODES if code not in fused), *fused)
    return Vocabulary(
        tokens=tokens,
        counts=(1,) * len(tokens),
        context_slots=(),
        quantiles=QUANTILES,
        interval_seconds=SECONDS,
        settings={**tokenizer.options({"value_tokens": value_tokens}), "code_maps": {}},
    )


VOCABULARY, FUSED = vocabulary("separate"), vocabulary("fused")
INDEX = VOCABULARY.index
INTERVALS = {INDEX[name] for name in VOCABULARY.intervals}
CLOCK = simulate.clock(VOCABULARY)


def ids(text, index=INDEX):
    return [index[name] for name in text.split()]


def futures(copies):
    """Of token lists, one list of copies a sample."""
    width = max(1, *(len(tokens) for sample in copies for tokens in sample))
    n, c = len(copies), len(copies[0])
    tokens = np.zeros((n, c, width), np.int32)
    for i, sample in enumerate(copies):
        for j, drawn in enumerate(sample):
            tokens[i, j, : len(drawn)] = drawn
    empty = np.zeros((n, c, 1), np.float32)
    return simulate.Futures(
        tokens=tokens,
        lengths=(tokens != 0).sum(axis=2).astype(np.int32),
        ended=empty.astype(np.int8),
        by_horizon=empty > 0,
        hours=empty,
        positive=empty,
        negative=empty,
        survival=empty,
        share=empty,
    )


def stays(n, subjects=None, times=None):
    subjects = np.arange(n) + 50 if subjects is None else np.array(subjects)
    times = np.full(n, 1_000 * DAY) if times is None else np.array(times)
    zeros = np.zeros(n, np.int64)
    return Stays(patients=zeros, anchors=zeros, known=zeros, times=times, subject_ids=subjects, labels=zeros > 0)


def write(folder, copies, gaps=None, who=None, words=VOCABULARY, **options):
    """Counts and tables of what is written."""
    who = stays(len(copies)) if who is None else who
    gaps = np.zeros(len(copies), np.float32) if gaps is None else np.array(gaps, np.float32)
    counts = trajectories.write(
        folder / "t", "test", who, futures(copies), words, simulate.clock(words), gaps, **options
    )
    return counts, trajectories.read(folder / "t" / "held_out")


def rows(table):
    hours = (table["time"].cast(pa.int64()).to_numpy() - table["prediction_time"].cast(pa.int64()).to_numpy()) / HOUR
    return list(zip(hours.tolist(), table["code"].to_pylist(), table["numeric_value"].to_pylist(), strict=True))


def test_golden(tmp_path):
    first = ids("LAB//NINE Q3 TIME//2h-6h HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HOME ICD10CM//I50 ICD10CM//3-6//23")
    second = ids("TIME//1d-3d TIME//1d-3d Q4 MED//ASPIRIN MEDS_DEATH")
    counts, (table, other) = write(tmp_path, [[first, second]])
    two, day = SECONDS[3] / 3600, SECONDS[6] / 3600
    assert rows(table) == [
        (0.0, "LAB//NINE", 2.5),
        (pytest.approx(two), "HOSPITAL_DISCHARGE//HOME", None),
        (pytest.approx(two), "DIAGNOSIS//ICD//10//I5023", None),
    ]
    assert rows(other) == [(pytest.approx(2 * day), "MED//ASPIRIN", None), (pytest.approx(2 * day), "MEDS_DEATH", None)]
    assert counts == {"trajectories": 2, "events": 5, "empty": 0, "lone_values": 1, "repeated": 0}
    assert table.schema == pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("time", pa.timestamp("us")),
            pa.field("code", pa.string(), nullable=False),
            pa.field("numeric_value", pa.float32()),
            pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        ]
    )
    assert table["subject_id"].to_pylist() == [50] * 3
    assert (tmp_path / "t").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in (tmp_path / "t" / "held_out").iterdir()) == ["0.parquet", "1.parquet"]


@pytest.mark.parametrize(
    "tokens, expected",
    [
        ("HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY", [("HOSPITAL_ADMISSION//EMERGENCY", None)]),
        ("HOSPITAL_ADMISSION", [("HOSPITAL_ADMISSION", None)]),
        ("ADMISSION_TYPE//EMERGENCY", [("ADMISSION_TYPE//EMERGENCY", None)]),
        ("ICD10CM//I50 ICD10CM//3-6//230 ICD10CM//SFX//A", [("DIAGNOSIS//ICD//10//I50230A", None)]),
        ("ICD10CM//I50 ICD10CM//SFX//A", [("DIAGNOSIS//ICD//10//I50", None), ("ICD10CM//SFX//A", None)]),
        ("ICD9CM//E850 ICD9CM//SFX//0", [("DIAGNOSIS//ICD//9//E8500", None)]),
        ("ICD9PCS//37 ICD9PCS//SFX//22", [("PROCEDURE//ICD//9//3722", None)]),
        ("ICD10PCS//0 " * 8, [("PROCEDURE//ICD//10//0000000", None), ("PROCEDURE//ICD//10//0", None)]),
        ("ATC//A10 ATC//4//A ATC//SFX//B01", [("ATC//A10AB01", None)]),
        ("VITAL//BLOOD_PRESSURE Q3 Q1", [("VITAL//BLOOD_PRESSURE//SYSTOLIC", pytest.approx(120, abs=1e-4)),
                                         ("VITAL//BLOOD_PRESSURE//DIASTOLIC", 60.0)]),
        ("BMI//Q2", [("BMI", 25.0)]),
        ("LAB//NINE Q10", [("LAB//NINE", pytest.approx(9, abs=1e-5))]),
        ("LAB//NINE Q1", [("LAB//NINE", 1.0)]),
        ("LAB//THREE Q3", [("LAB//THREE", CLOSE)]),  # the middle would round to the break below
        ("LAB//THREE Q7", [("LAB//THREE", None)]),  # no such bin
        ("LAB//CONSTANT Q1", [("LAB//CONSTANT", None)]),
        ("MED//ASPIRIN Q2", [("MED//ASPIRIN", None)]),
        ("Q2 Q3", []),
        ("LAB//NINE Q2 Q3", [("LAB//NINE", 1.5)]),
        (END, [(END, None)]),
        (UNK, [(UNK, None)]),
    ],
)  # fmt: skip
def test_how_events_are_spelt(tmp_path, tokens, expected):
    _, (table,) = write(tmp_path, [[ids(tokens)]])
    assert [row[1:] for row in rows(table)] == (expected or [(trajectories.NOTHING, None)])


# What the tokenizer makes of one event each: the only sequences that can come back as they were.
WHOLE = st.sampled_from(
    [
        *("MEDS_DEATH", "HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY", "HOSPITAL_DISCHARGE DISCHARGE_LOCATION//HOME"),
        *("ICU_ADMISSION ICU_TYPE//MICU", "ICU_DISCHARGE", "ED_REGISTRATION ED_TRANSPORT//AMBULANCE", "ED_OUT"),
        *("LAB//NINE", "LAB//NONE", "MED//ASPIRIN", "TRANSFER//MICU", "ICD10CM//I50", "ICD10CM//I50 ICD10CM//3-6//23"),
        *(
            "ICD10CM//I50 ICD10CM//3-6//230 ICD10CM//SFX//A",
            "ICD9CM//428 ICD9CM//SFX//0",
            "ICD9CM//E850",
            "ICD10CM//UNK",
        ),
        *("ICD10CM//UNK", "ICD9PCS//37 ICD9PCS//SFX//22", "ICD10PCS//0 ICD10PCS//2 ICD10PCS//1" + " ICD10PCS//0" * 4),
        *(f"{code} Q{k}" for code, bins in BINS for k in range(1, bins + 1)),
        *(f"BMI Q{k}" for k in (1, 2, 3)),
    ]
)
STEP = st.sampled_from(["", *VOCABULARY.intervals])


@pytest.mark.parametrize("words", [pytest.param(VOCABULARY, id="separate"), pytest.param(FUSED, id="fused")])
@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(STEP, WHOLE), min_size=1, max_size=12), min_size=1, max_size=4))
def test_what_is_written_is_tokenized_to_what_was_drawn(tmp_path_factory, words, drawn):
    # A timeline begins without an interval, and two intervals in a row would become one: neither is drawn here.
    lines = [" ".join([events[0][1], *(f"{step} {event}" for step, event in events[1:])]) for events in drawn]
    if words is FUSED:
        lines = [line.replace(" Q", "//Q") for line in lines]
    copies = [[ids(line, words.index)] for line in lines]
    folder = tmp_path_factory.mktemp("round")
    counts, _ = write(folder, copies, words=words)
    assert counts["events"] == sum(len(events) for events in drawn)
    ((found, _),) = tokenizer.tokenize(folder / "t" / "held_out" / "0.parquet", words, maps.load(None))
    np.testing.assert_array_equal(found.tokens, np.concatenate([[*c[0], INDEX[END]] for c in copies]))


# One letter a token; the pattern says, in another way than the program, what one event is.
_LETTERS = {
    "HOSPITAL_ADMISSION": "A", "ADMISSION_TYPE//EMERGENCY": "a", "HOSPITAL_DISCHARGE": "D",
    "DISCHARGE_LOCATION//HOME": "d", "ICU_ADMISSION": "C", "ICU_TYPE//MICU": "c", "ED_REGISTRATION": "E",
    "ED_TRANSPORT//AMBULANCE": "e", "ICD10CM//I50": "I", "ICD10CM//3-6//23": "i", "ICD10CM//3-6//230": "j",
    "ICD10CM//SFX//A": "x", "ICD9CM//428": "N", "ICD9CM//E850": "N", "ICD9CM//SFX//0": "n", "ICD9PCS//37": "P",
    "ICD9PCS//SFX//22": "p", "ATC//A10": "T", "ATC//4//A": "t", "ATC//SFX//B01": "u", "VITAL//BLOOD_PRESSURE": "V",
    "ICD10PCS//0": "R", "ICD10PCS//1": "R", "ICD10PCS//2": "R", "ED_OUT": "O", UNK: "U",
}  # fmt: skip
# U: this vocabulary has no family's UNK, so that it stands for a place that is not known; it has no place that follows
# ED_OUT, so that what is not known after that is an event of its own. R: procedures have seven
# characters, and if some have not, nobody can tell them apart, but for a last one that the end cut short.
_EVENT = re.compile(
    r"Vqq|(?:A[aU]|D[dU]|C[cU]|E[eU]|Ijx|I[ij]|jx|Nn|Pp|Ttu|Tt|tu|"
    r"R{7}(?=(?:R{7})*(?!R))|R{1,7}(?=R*q?$)|R+|[^q-])q?|q"
)
CHARACTER = st.sampled_from([i for i, name in enumerate(VOCABULARY.tokens) if name.startswith("ICD10PCS//")])
ANY = st.one_of(st.integers(1, len(VOCABULARY.tokens) - 1), CHARACTER)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(ANY, min_size=0, max_size=30), min_size=2, max_size=2),
    st.floats(0, 2000, width=32),
)
@example([[], ids("ED_OUT UNK")], 0.0)
def test_any_tokens_make_events_in_order(tmp_path_factory, drawn, gap):
    counts, (table,) = write(tmp_path_factory.mktemp("any"), [[tokens] for tokens in drawn], gaps=[gap, 0.0])
    assert table.num_rows == counts["events"] + counts["empty"]
    keys = list(zip(*(table[name].to_pylist() for name in ("subject_id", "prediction_time", "time")), strict=True))
    assert keys == sorted(keys)
    assert all(time >= prediction for _, prediction, time in keys)
    events = lone = 0
    for sample, tokens in enumerate(drawn):
        kinds = ("-" if i in INTERVALS else _LETTERS.get(VOCABULARY.tokens[i], ".") for i in tokens)
        letters = "".join(
            "q" if re.fullmatch(r"Q\d+", VOCABULARY.tokens[i]) else k for i, k in zip(tokens, kinds, strict=True)
        )
        found = re.findall(_EVENT, letters)
        lone += found.count("q")
        events += len(found) - found.count("q") + found.count("Vqq")  # that one is two
        # No event is later than all of its copy's intervals together.
        subjects = table["subject_id"].to_pylist()
        own = [row[0] for row, subject in zip(rows(table), subjects, strict=True) if subject == 50 + sample]
        assert max(own) <= sum(CLOCK.hours[i].item() for i in tokens) + 1e-6
    assert (counts["events"], counts["lone_values"]) == (events, lone)


def test_the_clock_starts_at_the_last_event_of_the_prompt():
    short, long = CLOCK.hours[INDEX["TIME//2h-6h"]].item(), CLOCK.hours[INDEX["TIME//1d-3d"]].item()
    tokens = np.array([[ids("TIME//2h-6h MEDS_DEATH TIME//1d-3d UNK"), ids("UNK TIME//1d-3d UNK UNK")]])
    for gap, expected in (
        (0.0, [[short, short, short + long, short + long], [0, long, long, long]]),
        # beyond a first interval that is shorter: it leads to the prediction itself
        (5.0, [[0, 0, long, long], [0, long, long, long]]),
        (1.0, [[short - 1, short - 1, short - 1 + long, short - 1 + long], [0, long, long, long]]),
    ):
        found = trajectories.elapsed(tokens, CLOCK, np.array([gap], np.float32))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_silence_comes_before_all_events(tmp_path):
    _, (table,) = write(tmp_path, [[ids("TIME//1d-3d MEDS_DEATH")]], gaps=[30.0], silence=24.0)
    assert rows(table) == [(pytest.approx(CLOCK.hours[INDEX["TIME//1d-3d"]] - 6, rel=1e-6), "MEDS_DEATH", None)]


def test_times_are_those_of_the_simulation(tmp_path):
    """Of a model that draws anything: every copy is written up to where its outcome was decided, and not beyond."""
    model = Transformer(Shape("tiny", 16, 1, 1, 40), len(VOCABULARY.tokens), 96)
    zeros = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), zeros, zeros)["params"]
    params["head"] = 0.3 * jax.random.normal(jax.random.key(1), params["head"].shape)
    n, width, horizon = 6, 8, 24.0 * 90
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, len(VOCABULARY.tokens), (n, width)).astype(np.int32)
    death, none = np.zeros((2, 1, len(VOCABULARY.tokens)), bool)
    death[0, INDEX["MEDS_DEATH"]] = True
    stops = simulate.Stops(death, none, none, np.array([simulate.NEGATIVE], np.int8))
    gaps = rng.uniform(0, 30, n).astype(np.float32)
    horizons = np.full((n, 1), horizon, np.float32)
    about = {"stops": stops, "clock": CLOCK, "context": 32, "copies": 3, "new_tokens": 24}
    asked = simulate.SimulationRequest(prompts, np.arange(n).astype(np.uint64), gaps, horizons, **about)
    futures = simulate.simulate(model, params, asked)
    hours = trajectories.elapsed(futures.tokens, CLOCK, gaps)
    last = np.take_along_axis(hours, futures.lengths[..., None] - 1, axis=2)[..., 0]
    np.testing.assert_allclose(np.minimum(last, horizon), futures.hours[..., 0], rtol=1e-5, atol=1e-5)
    assert {simulate.POSITIVE, simulate.NEGATIVE} <= set(futures.ended.ravel())
    trajectories.write(tmp_path / "t", "test", stays(n), futures, VOCABULARY, CLOCK, gaps)
    for copy, table in enumerate(trajectories.read(tmp_path / "t" / "held_out")):
        written = rows(table)
        assert max(hours for hours, _, _ in written) <= horizon
        assert (
            sum(code == "MEDS_DEATH" for _, code, _ in written) == (futures.ended[:, copy] == simulate.POSITIVE).sum()
        )


def test_samples_are_sorted_and_told_apart(tmp_path):
    who = stays(4, subjects=[9, 7, 9, 7], times=[5 * DAY, 3 * DAY, 2 * DAY, 3 * DAY])
    copies = [[ids("MED//ASPIRIN")], [ids("LAB//NONE")], [ids("MEDS_DEATH")], [ids("BMI")]]
    counts, (table,) = write(tmp_path, copies, who=who)
    assert table["subject_id"].to_pylist() == [7, 9, 9]
    assert table["code"].to_pylist() == ["LAB//NONE", "MEDS_DEATH", "MED//ASPIRIN"]
    assert counts["repeated"] == 1 and counts["trajectories"] == 3


def test_parts_are_one_file(tmp_path, monkeypatch):
    copies = [[ids(f"LAB//NINE Q{1 + i % 10} TIME//1d-3d MED//ASPIRIN"), ids("BMI")] for i in range(23)]
    _, whole = write(tmp_path / "a", copies)
    monkeypatch.setattr(trajectories, "_AT_ONCE", 5)
    _, parts = write(tmp_path / "b", copies)
    assert whole == parts
    assert pq.ParquetFile(tmp_path / "b" / "t" / "held_out" / "0.parquet").num_row_groups == 5


def test_a_copy_without_events_is_there(tmp_path):
    counts, (table,) = write(tmp_path, [[ids("TIME//1d-3d")], [ids("MEDS_DEATH")]])
    assert rows(table) == [(0.0, trajectories.NOTHING, None), (0.0, "MEDS_DEATH", None)]
    assert counts["empty"] == 1 and counts["events"] == 1


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories.Reader, "rows", lambda self, event: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, [[ids("BMI")]])
    assert list((tmp_path / "t" / "held_out").iterdir()) == []


def test_reading_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="holds no trajectories"):
        trajectories.read(tmp_path)
    (tmp_path / "0.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"0\.parquet is damaged"):
        trajectories.read(tmp_path)
    pq.write_table(pa.table({"code": ["A"]}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match="other columns than subject_id, time"):
        trajectories.read(tmp_path)
