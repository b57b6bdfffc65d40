"""Task files of MEDS-DEV: what is read of them, what they mean in a vocabulary, and what is refused."""

import pytest
import yaml

from ehr_scaling.artifacts import write_json
from ehr_scaling.data import presets
from ehr_scaling.data.codes import maps
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.vocabulary import SPECIAL, Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking.meds_dev import aces, code_tokens, meds_dev
from ehr_scaling.outcomes.asking.meds_dev.aces import Plain
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from tests import meds_dev_files
from tests.meds_dev_files import ABNORMAL, MORTALITY, NOTHING, READMISSION, SOME, TASKS, window, write

DEATH = Plain("death", regex="MEDS_DEATH.*")
ADMISSION, DISCHARGE, ICU_ADMISSION, ICU_DISCHARGE = (
    Plain(name.lower(), regex=f"^{name}//.*")
    for name in ("HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "ICU_ADMISSION", "ICU_DISCHARGE")
)
LIMITS = {"value_min": "above", "value_max": "below"}
# Codes of a study, as the source spells them, and the tokens of its vocabulary
CODES = (
    *("HOSPITAL_ADMISSION//URGENT//UNK", "HOSPITAL_DISCHARGE//HOME", "ICU_ADMISSION//MICU", "ICU_DISCHARGE//MICU"),
    *("MEDS_DEATH", "LAB//50912//mg/dL", "LAB//50983//mEq/L", "CHART//220645//mEq/L", "LAB//51265//K/uL"),
)
VALUED = ("LAB//50912//MG/DL", "LAB//50983//MEQ/L", "CHART//220645//MEQ/L")
TOKENS = (
    *(*SPECIAL, "HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "ICU_ADMISSION", "ICU_DISCHARGE", "MEDS_DEATH", *VALUED),
    *(f"{name}//Q{k}" for name in VALUED for k in (1, 2, 3)),
)


def study(dialect=dialects.MIMIC_IV_MEDS_0_2):
    settings = {
        "preset": "clean", "value_tokens": "fused", "code_depth": 0, "intervals": 13, "bins": 10, "age": "5-year",
        "top_labs": 0, "code_maps": {},
    }  # fmt: skip
    quantiles = dict.fromkeys(VALUED, (1.0, 2.0))
    vocabulary = Vocabulary(TOKENS, (1,) * len(TOKENS), (), quantiles, (60.0,) * 13, settings)
    rules = presets.rules(settings, maps.load(None))
    return code_tokens.Study(vocabulary, rules, {code: rules(code).paths[0][0] for code in CODES}, dialect)


@pytest.fixture
def files(tmp_path):
    return {
        "task": lambda name: write(tmp_path / f"{name}.yaml", meds_dev_files.task(name)),
        "predicates": lambda **how: write(tmp_path / "predicates.yaml", meds_dev_files.predicates(**how)),
    }


@pytest.mark.parametrize("name", ABNORMAL)
@pytest.mark.parametrize("one_each", [False, True])
def test_tasks_of_abnormal_values(files, name, one_each):
    criteria = aces.read(files["task"](name), files["predicates"](one_each=one_each))
    (_, side, limit), codes = ABNORMAL[name]
    assert {code for plain in criteria.label for code in plain.codes} == set(codes)
    assert {plain.limits for plain in criteria.label} == {((LIMITS[side], float(limit)),)}
    assert {code for plain in criteria.required for code in plain.codes} == set(codes)
    assert not any(plain.limits for plain in criteria.required)
    assert set(criteria.excluded) == {ADMISSION, DEATH, DISCHARGE} and criteria.against == ()
    assert (criteria.horizon, criteria.gap, criteria.alive) == (24.0, 0.0, False)


def test_tasks_of_deaths_and_admissions(files):
    criteria = aces.read(files["task"](MORTALITY), files["predicates"]())
    assert criteria.label == (DEATH,) and set(criteria.against) == {ICU_DISCHARGE, DEATH}
    assert set(criteria.excluded) == {ICU_ADMISSION, ICU_DISCHARGE, DEATH} and criteria.required == ()
    assert (criteria.horizon, criteria.gap, criteria.alive) == (None, 24.0, False)
    criteria = aces.read(files["task"](READMISSION), files["predicates"]())
    assert criteria.label == (ADMISSION,) and criteria.against == criteria.excluded == ()
    assert (criteria.horizon, criteria.gap, criteria.alive) == (720.0, 0.0, True)


def ask(tmp_path, monkeypatch, name, labels=None, **how):
    work = tmp_path / "work"
    monkeypatch.setattr(code_tokens, "of_study", lambda folder: study(**how))
    root = tmp_path / "MEDS_DEV"
    if not root.exists():
        meds_dev_files.lay_out(root)
    return meds_dev.of_file(work, labels or tmp_path / "labels" / name, root / "tasks", root / "datasets")


@pytest.fixture
def folder(tmp_path):
    """Of a study of MIMIC-IV, and all else."""
    metadata = Layout(tmp_path / "work").events / "metadata"
    metadata.mkdir(parents=True)
    write_json(metadata / "dataset.json", {"dataset_name": "MIMIC-IV"})
    return tmp_path


def test_tokens_of_tasks(folder, monkeypatch):
    task, notes = ask(folder, monkeypatch, "abnormal_lab/blood_chemistry/hyponatremia/first_24h")
    assert task.values == tuple(Bound(code, below=135.0) for code in ("CHART//220645//MEQ/L", "LAB//50983//MEQ/L"))
    assert set(task.requires) == {"CHART//220645//MEQ/L", "LAB//50983//MEQ/L"} and not task.positive
    assert set(task.open) == {"HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "MEDS_DEATH"} and not task.negative
    assert (task.horizon, task.at_horizon, task.at_end, task.gap) == (1.0, "negative", "open", 0.0)
    assert task.name == "abnormal_lab-blood_chemistry-hyponatremia-first_24h" and not notes
    task, notes = ask(folder, monkeypatch, "abnormal_lab/blood_chemistry/elevated_creatinine/first_24h")
    assert task.values == (Bound("LAB//50912//MG/DL", above=1.3),) and not notes
    task, _ = ask(folder, monkeypatch, MORTALITY)
    assert (task.positive, task.negative, task.open) == (("MEDS_DEATH",), ("ICU_DISCHARGE",), ("ICU_ADMISSION",))
    assert (task.horizon, task.at_horizon, task.gap) == (None, None, 24.0)
    task, _ = ask(folder, monkeypatch, READMISSION)
    assert (task.positive, task.negative, task.open) == (("HOSPITAL_ADMISSION",), (), ("MEDS_DEATH",))
    assert (task.horizon, task.at_horizon) == (30.0, "negative")


def test_what_no_token_is_meant_by_is_told(folder, monkeypatch):
    # Its code is among the study's, but was too rare for a token
    with pytest.raises(
        UserError, match=r"the outcome is platelets \(LAB//227457//K/uL, LAB//RESULT//51265//K/uL\), which"
    ):
        ask(folder, monkeypatch, "abnormal_lab/cbc/thrombocytopenia/first_24h")
    plains = (Plain("x", codes=("LAB//1//a",), limits=(("above", 1.0),)), Plain("y", codes=("LAB//1//a",)))
    assert code_tokens.lines(study(), plains) == [
        "predicate x (LAB//1//a) means no token of this vocabulary: it is taken never to happen"
    ]
    one = Plain("urgent", codes=("HOSPITAL_ADMISSION//ELECTIVE//UNK",))
    assert code_tokens.lines(study(), [one]) == [
        "predicate urgent: HOSPITAL_ADMISSION stands for other codes too, which count as it"
    ]


@pytest.mark.parametrize(
    "dialect, plain, tokens",
    [
        (dialects.MIMIC_IV_MEDS_0_2, Plain("a", codes=("LAB//RESULT//50912//mg/dL",)), ("LAB//50912//MG/DL",)),
        (dialects.ETHOS, Plain("a", codes=("LAB//50912//mg/dL",)), ("LAB//50912//MG/DL",)),
        (dialects.MIMIC_IV_MEDS_0_2, Plain("a", codes=("LAB//220645//mEq/L",)), ("CHART//220645//MEQ/L",)),
        (dialects.MIMIC_IV_MEDS_0_2, Plain("a", regex="^LAB//RESULT//509(12|83)//"), VALUED[:2]),
        (dialects.MIMIC_IV_MEDS_0_2, Plain("a", regex="^LAB//220645//"), VALUED[2:]),
        (dialects.OTHER, Plain("a", regex="^LAB//RESULT//"), ()),
        (dialects.OTHER, Plain("a", codes=("LAB//50912//mg/dL",)), ("LAB//50912//MG/DL",)),
    ],
)
def test_codes_in_the_spelling_of_their_data_set(dialect, plain, tokens):
    assert code_tokens.meant(study(dialect), plain).tokens == tokens


def test_codes_that_maps_have_changed_are_refused():
    mapped = study()
    mapped.vocabulary.settings["code_maps"] = {"gem": "1"}
    with pytest.raises(UserError, match="means codes of DIAGNOSIS, which this study has mapped"):
        code_tokens.meant(mapped, Plain("x", codes=("DIAGNOSIS//ICD//9//4280",)))


def test_which_file_it_is(folder, monkeypatch):
    with pytest.raises(UserError, match=r"does not end with the name of a task in .*: name its file"):
        ask(folder, monkeypatch, "", labels=folder / "labels" / "cbc" / "anemia")
    for name in TASKS:
        assert meds_dev._task_file(folder / "MEDS_DEV" / "tasks", folder / "MIMIC-IV" / name)[1] == name
    only = write(folder / "tasks" / "mine" / "task.yaml", {})
    assert meds_dev._task_file(folder / "tasks", folder / "mine") == (only, "mine")
    (folder / "work" / "events" / "metadata" / "dataset.json").unlink()
    with pytest.raises(
        UserError, match=r"has no predicates of the data set without a name \(it has mimic-iv, other\): name"
    ):
        ask(folder, monkeypatch, READMISSION)
    task, _ = ask(folder, monkeypatch, READMISSION, labels=folder / "MIMIC-IV" / "labels" / READMISSION)
    assert task.horizon == 30


def changed(name, **changes):
    """A task of MEDS-DEV with some of its parts otherwise, by their paths, such as windows__target__end; None: gone."""
    task = meds_dev_files.task(name)
    for path, value in changes.items():
        *above, last = path.split("__")
        at = task
        for key in above:
            at = at[key]
        at[last] = value
    return task


LAB = next(iter(ABNORMAL))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        (LAB, {"patient_demographics": {}}, "patient_demographics is beyond what is read"),
        (LAB, {"windows": {}}, "has no windows"),
        (LAB, {"windows__input__index_timestamp": None}, "0 windows have index_timestamp: one must"),
        (LAB, {"windows__input__label": "death"}, "2 windows have label: one must"),
        (LAB, {"windows__input__index_timestamp": "now"}, "index_timestamp is now: take start or end"),
        (LAB, {"windows__target__until": "x"}, "window target: until is beyond what is read"),
        (LAB, {"windows__target__end": "start + 1 month"}, "window target: 1 month is no span of time"),
        (LAB, {"windows__target__end": "soon"}, "window target: end is soon, which is not read"),
        (LAB, {"windows__target__start": "later.end"}, "names the window later, which is not there"),
        (LAB, {"windows__target__start": "end - 1h"}, "refers to itself"),
        (LAB, {"windows__target__start": "trigger"}, "the label is not looked for in the time after the prediction"),
        (LAB, {"windows__input__end": "trigger -> death"}, "the prediction is not at a time after the trigger"),
        (LAB, {"windows__target__has": {"death": "(2, None)"}}, r"death: \(2, None\) reaches past the prediction"),
        (LAB, {"windows__target__has": {"death": "some"}}, r"death: some is no pair like \(None, 0\)"),
        (LAB, {"windows__no_discharge__end": "start + 36h"}, "window no_discharge: .* reaches past the prediction"),
        (LAB, {"windows__target__label": "nothing"}, "the predicate nothing is not told there"),
        (LAB, {"predicates__creatinine": "???"}, None),
        (LAB, {"predicates__abnormal_creatinine": {"expr": "not(creatinine)"}}, "is not read: or.* or and.* of names"),
        (LAB, {"predicates__abnormal_creatinine": {"expr": "and(creatinine, death)"}}, "of two events at one time"),
        (LAB, {"predicates__abnormal_creatinine": {"expr": "or(abnormal_creatinine, death)"}}, "refers to itself"),
        (LAB, {"predicates__abnormal_creatinine": {"code": {"all": ["a"]}}}, "take a code, .regex: …. or .any: "),
        (LAB, {"predicates__abnormal_creatinine": {"code": {"regex": "("}}}, "the regex .* is none"),
        (LAB, {"predicates__abnormal_creatinine": {"code": "a", "value_min": "b"}}, "value_min is b: take a number"),
        (LAB, {"predicates__abnormal_creatinine": {"code": "a", "unit": "b"}}, "unit is beyond what is read"),
        (MORTALITY, {"windows__gap__has": {"icu_admission": NOTHING}}, "what decides it may come before it begins"),
        (MORTALITY, {"windows__target__start": "input.end"}, "window gap: .* reaches past the prediction"),
        (MORTALITY, {"windows__target__end": "start -> nobody"}, "names the predicate nobody, which is nowhere"),
    ],
)
def test_what_is_beyond_the_subset(files, tmp_path, name, changes, message):
    path = write(tmp_path / "task.yaml", changed(name, **changes))
    if message is None:
        aces.read(path, files["predicates"]())
        return
    with pytest.raises(UserError, match=message) as error:
        aces.read(path, files["predicates"]())
    assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path))


def test_spans_and_limits(tmp_path):
    task = {
        "predicates": {
            "a": {"code": "A", "value_min": 1, "value_min_inclusive": True, "value_max": 2},
            "b": {"expr": "a"},
            "c": {"code": "C"},
        },
        "trigger": "c",
        "windows": {
            "input": window("end - 1d", "trigger", index_timestamp="end"),
            "target": window("input.end", "start + 1 day 12 hours", label="b", has={"c": "(None, None)"}),
        },
    }
    criteria = aces.read(write(tmp_path / "t.yaml", task))
    assert criteria.label == (Plain("a", ("A",), limits=(("at_least", 1.0), ("below", 2.0))),)
    assert criteria.horizon == 36 and criteria.required == ()
    task["windows"]["target"] = window("input.end", None, label="b", has={"c": SOME})
    criteria = aces.read(write(tmp_path / "t.yaml", task))
    assert criteria.horizon is None and len(criteria.required) == 1
    task["windows"]["target"] = window("input.end", "start -> c", label="b", has={"a": NOTHING})
    criteria = aces.read(write(tmp_path / "t.yaml", task))
    assert criteria.against == (Plain("c", ("C",)),) and criteria.excluded[0].name == "a"


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        aces.read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="stands where names with fields should"):
        aces.read(write(tmp_path / "list.yaml", [1]))
    (tmp_path / "twice.yaml").write_text("trigger: a\ntrigger: b\n")
    with pytest.raises(UserError, match="trigger is repeated"):
        aces.read(tmp_path / "twice.yaml")
    assert yaml.safe_load((tmp_path / "list.yaml").read_text()) == [1]
