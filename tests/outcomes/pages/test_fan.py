"""The page of simulated futures: it says what the arrays say, stands alone, and is made of open data alone."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.data.vocabulary import AGES, END, SPECIAL, Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.pages import fan, fan_figure
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING

EVIL = "LAB//<script>alert(1)</script>&"
_CODES = """GENDER//F GENDER//UNKNOWN MEDS_DEATH HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY HOSPITAL_DISCHARGE
ICU_ADMISSION LAB//50912//MG/DL MED//SODIUM_BICARBONATE ICD10CM//I50 ICD10CM//3-6//23 VITAL//HEART_RATE"""
TOKENS = (*SPECIAL, *AGES, *_CODES.split(), EVIL)
SECONDS = (600.0, 1800.0, 5400.0, 14400.0, 32400.0, 64800.0, 172800.0, 4e5, 9e5, 1.8e6, 4.6e6, 1.1e7, 1.6e7)
VOCABULARY = Vocabulary(
    tokens=TOKENS,
    counts=(1,) * len(TOKENS),
    context_slots=("GENDER",),
    quantiles={"LAB//50912//MG/DL": (0.8, 1.2, 2.0)},
    interval_seconds=SECONDS,
    settings={**tokenizer.options(), "code_maps": {}},
)
CLOCK = simulate.clock(VOCABULARY)
GENERATED = {
    "inputs": {"source": "synthetic"},
    "summary": {"name": "generated", "license": "Apache-2.0", "generated": True},
}
DEMO = {
    "inputs": {"source": "mimic-iv"},
    "summary": {"name": "MIMIC-IV Clinical Database Demo", "license": "ODbL 1.0", "generated": False},
}


def ids(text):
    return [VOCABULARY.index[name] for name in text.split()]


PROMPT = ids(
    "GENDER//F AGE//70-75 HOSPITAL_ADMISSION ADMISSION_TYPE//EMERGENCY TIME//2h-6h LAB//50912//MG/DL Q3 "
    "MED//SODIUM_BICARBONATE TIME//12h-1d ICD10CM//I50 ICD10CM//3-6//23"
)
COPIES = (  # tokens, what decided each of two outcomes, and when
    ("TIME//1h-2h LAB//50912//MG/DL Q4 TIME//1d-3d MEDS_DEATH", (POSITIVE, NEGATIVE), (49.5, 49.5)),
    ("TIME//12h-1d HOSPITAL_DISCHARGE", (NEGATIVE, NEGATIVE), (18.0, 18.0)),
    ("TIME//12h-1d MED//SODIUM_BICARBONATE TIME//1d-3d HOSPITAL_DISCHARGE", (NEGATIVE, NEGATIVE), (66.0, 66.0)),
    ("TIME//1d-3d TIME//1w-2w", (OPEN, POSITIVE), (240.0, 72.0)),
    (f"TIME//1d-3d {EVIL}", (RUNNING, RUNNING), (48.0, 48.0)),
    (f"TIME//1h-2h {END}", (OPEN, OPEN), (1.5, 1.5)),
    ("TIME//1h-2h ICU_ADMISSION", (OPEN, OPEN), (1.5, 1.5)),
)
HORIZONS = np.array([[240.0, 72.0]], np.float32)


def futures(copies=COPIES):
    width = max(len(ids(text)) for text, *_ in copies)
    tokens = np.zeros((1, len(copies), width), np.int32)
    for c, (text, *_) in enumerate(copies):
        tokens[0, c, : len(ids(text))] = ids(text)
    ended = np.array([[kinds for _, kinds, _ in copies]], np.int8)
    hours = np.array([[times for *_, times in copies]], np.float32)
    sums = np.linspace(0.1, 0.4, hours.size, dtype=np.float32).reshape(hours.shape)
    lengths = (tokens > 0).sum(axis=2).astype(np.int32)
    return simulate.Futures(tokens, lengths, ended, ended == OPEN, hours, sums, sums[:, ::-1], -sums, 0 * sums)


def page(events=None, drawn=None, prompt=PROMPT, **options):
    drawn = futures() if drawn is None else drawn
    outcomes = [
        fan.Outcome(name, text, estimators.scope(drawn, k))
        for k, (name, text) in enumerate(
            [("in_hospital_death", "Death in hospital."), ("icu_stay_72h", "Still there.")]
        )
    ]
    prompts = np.array([[0] * (40 - len(prompt)) + list(prompt)])
    return fan.page(
        *(events or GENERATED, VOCABULARY, prompts, drawn, outcomes),
        **{"clock": CLOCK, "gaps": np.array([0.0], np.float32), "horizons": HORIZONS, **options},
    )


def svg(text):
    (drawing,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return ElementTree.fromstring(drawing.replace("&nbsp;", " "))


def test_the_page_says_what_the_arrays_say():
    text = page()
    drawn = futures()
    scope = estimators.scope(drawn, 0)
    assert f"{100 * scope.probability[0]:.1f}\N{NO-BREAK SPACE}% ± {100 * scope.error[0]:.1f}" in text
    assert "1 of 3" in text and "In hospital death" in text and "ICU stay 72h" in text and "Death in hospital." in text
    for end in ("1 died", "2 left hospital", "1 horizon reached", "1 cut off, undecided", "1 record ends"):
        assert f">{end}<" in text
    assert "Gender: F" in text and "Age: 70-75" in text
    # The prompt's events, by family, at times told backwards from the prediction: 18 and 22 hours of intervals
    told = re.findall(r'<span class="event (\w+)">(.*?)</span>', text)
    assert told == [
        ("diagnosis", "ICD-10 I5023"),
        ("measure", "LAB 50912 mg/dl ≈ 1.6"),
        ("drug", "sodium bicarbonate"),
        ("care", "hospital admission emergency"),
    ]
    assert re.findall(r'<span class="when">(.*?)</span>', text) == [
        *("at the prediction", "about 18 hours before", "about 22 hours before")
    ]


def test_the_figure_has_a_line_for_each_future():
    root = svg(page())
    copies = [g for g in root.iter() if g.get("class") == "copy"]
    assert len(copies) == len(COPIES)
    titles = [g.find("title").text for g in copies]
    assert titles[0] == "Future 1: 2 events; died after 2 days"
    assert [re.search(r"; (.*) after", title)[1] for title in titles] == [
        *("died", "left hospital", "left hospital", "to intensive care", "record ends", "horizon reached"),
        "cut off, undecided",
    ]
    ends = [float(g.find("line").get("x2")) for g in copies]
    assert ends[1] < ends[2] == max(ends[1:4])  # futures that end alike stand by their length
    assert "1 died" in root.get("aria-label") and root.get("role") == "img"
    # the curves of both outcomes, and the end of the time in which the second one counts
    assert len([p for p in root.iter() if p.get("class") == "risk"]) == 2
    assert [p.get("class") for p in root.iter() if p.get("class") == "horizon"] == ["horizon"]


class _Balance(HTMLParser):
    void = ("meta", "link", "br", "path", "line", "rect")

    def __init__(self):
        super().__init__()
        self.stack, self.names = [], []

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        if tag not in self.void:
            self.stack.append(tag)
        for name, value in attributes:
            assert not name.startswith("on") and not (name in ("src", "href") and re.match(r"\w+://|//", value))

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.stack.pop() == tag


def test_the_page_stands_alone():
    text = page(model="A model of 25 k parameters.")
    parser = _Balance()
    parser.feed(text)
    assert parser.stack == []
    assert not {"script", "iframe", "img", "object"} & set(parser.names)
    assert "@import" not in text and "url(" not in text
    assert "A model of 25 k parameters." in text and "no medical advice" in text.split("<main>")[0]
    assert "prefers-color-scheme: dark" in text


def test_it_holds_no_date():
    assert not re.search(
        r"\d{4}-\d{2}-\d{2}|\b(19|20|21|22)\d{2}\b(?!:)",
        re.sub(r"<style>.*?</style>|<svg.*?</svg>|2602\.03730", "", page(), flags=re.DOTALL),
    )


def test_open_data_and_generated_patients_only():
    assert "MIMIC-IV Clinical Database Demo (ODbL 1.0)" in page(DEMO)
    for licence in ("Open Data Commons Attribution License v1.0", "open access, see location_uri"):
        about = {"name": "PhysioNet/CinC Challenge 2012", "license": licence}
        fan.check_open({"inputs": {"source": "challenge-2012"}, "summary": about})


@pytest.mark.parametrize(
    "source, name, licence",
    [
        ("mimic-iv", "MIMIC-IV", "PhysioNet Credentialed Health Data License 1.5.0"),
        ("meds", "MIMIC-IV Clinical Database Demo", "ODbL 1.0"),  # whose name and licence are its own claim
        ("meds", "generated", "Apache-2.0"),
        ("mimic-iv", "MIMIC-IV Clinical Database Demo", "PhysioNet Credentialed Health Data License 1.5.0"),
        (None, None, None),
    ],
)
def test_records_of_others_are_refused(source, name, licence):
    events = {"inputs": {"source": source}, "summary": {"name": name, "license": licence, "generated": False}}
    with pytest.raises(UserError, match=r"^the records are .* alone$"):
        page(events)
    with pytest.raises(UserError, match="unknown origin"):
        fan.check_open({})


def test_descriptions_of_the_source_are_told():
    assert "Acute on chronic heart failure" in page(
        labels={"DIAGNOSIS//ICD//10//I5023": "Acute on chronic heart failure"}
    )


def test_a_silence_stands_between_the_prediction_and_all_events():
    text = page(silence=24.0, gaps=np.array([30.0], np.float32), horizons=np.full((1, 2), np.inf, np.float32))
    assert re.findall(r'<span class="when">(.*?)</span>', text) == [
        *("about 6 hours before", "about 24 hours before", "about 28 hours before")
    ]
    titles = [g.find("title").text for g in svg(text).iter() if g.get("class") == "copy"]
    # an interval of 1.5 h is shorter than the gap, so that the first event is at its end; then come 48 h
    assert titles[0] == "Future 1: 2 events; died after 3 days"
    assert titles[1] == "Future 2: 1 event; left hospital after 24 hours"


def test_one_copy_and_an_empty_history():
    drawn = futures(COPIES[:1])
    text = page(drawn=drawn, prompt=PROMPT[:2])
    assert "1 simulated future, a line each" in text and "0 events" in text
    assert re.search(r"\d%? ?%(?! ±)", text)  # one copy has no standard error
    svg(text)


@given(st.floats(0, 1e6), st.lists(st.floats(0, 2e6), min_size=2, max_size=9))
def test_the_axis_is_monotone_and_its_ticks_apart(most, hours):
    for start, end in ((330, 950), (330, 152)):
        axis = fan_figure.Axis(most, start, end)
        places = [abs(axis(h) - start) for h in sorted(hours)]
        assert places == sorted(places) and axis(0.0) == start
        assert max(places) <= abs(end - start) + 1e-6
        ticks = [start, *(x for x, _ in axis.ticks())]
        assert all(abs(b - a) >= 58 for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    "hours, text",
    [(0, "0 minutes"), (0.5, "30 minutes"), (1.5, "90 minutes"), (18, "18 hours"), (47, "2 days"), (72, "3 days"),
     (24 * 14, "2 weeks"), (24 * 45, "6 weeks"), (24 * 400, "13 months"), (24 * 731, "2 years")],
)  # fmt: skip
def test_durations(hours, text):
    assert fan.duration(hours) == text
