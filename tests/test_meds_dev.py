"""The MEDS-DEV model folder: its commands, run as MEDS-DEV runs them, and what they write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import ehr_scaling
from ehr_scaling.data import disclosure
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes import predict
from ehr_scaling.outcomes.asking import label_files
from ehr_scaling.outcomes.asking.meds_dev import meds_dev
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from ehr_scaling.outcomes.exchange import trajectories
from ehr_scaling.outcomes.sampler import simulate
from tests import meds_dev_files
from tests.data import made_up
from tests.data.made_up import DAY

FOLDER = Path(ehr_scaling.__file__).parents[1] / "meds_dev" / "ehr_scaling"
MODEL = yaml.safe_load((FOLDER / "model.yaml").read_text())
HOUR = DAY // 24
TASK = "mortality/in_icu/first_24h"
# meds-evaluation 0.0.6: exactly these, in any order
SCHEMA = {
    "subject_id": pa.int64(),
    "prediction_time": pa.timestamp("us"),
    "boolean_value": pa.bool_(),
    "predicted_boolean_value": pa.bool_(),
    "predicted_boolean_probability": pa.float32(),
}


def patients(seed, first, n):
    """Stays with intensive care, some of which end in death, and the labels of those who are there after 48 hours."""
    rng = np.random.default_rng(seed)
    events, labels = {}, []
    for subject in range(first, first + n):
        now = int(rng.integers(10_000, 15_000)) * DAY
        own = [(None, f"GENDER//{'FM'[subject % 2]}", None), (now - 60 * 365 * DAY, "MEDS_BIRTH", None)]
        for _ in range(int(rng.integers(1, 4))):
            own += [(now, "HOSPITAL_ADMISSION//URGENT//HOME", None), (now + HOUR, "ICU_ADMISSION//MICU", None)]
            arrival, hours, dies = now + HOUR, float(rng.choice([30, 60, 120, 200])), rng.random() < 0.25
            for at in np.arange(2, hours, 8):
                own.append((arrival + int(at) * HOUR, "LAB//50813//mmol/L", float(rng.normal(5 if dies else 1, 0.5))))
            end = arrival + int(hours) * HOUR
            if hours > 48:
                labels.append((subject, arrival + DAY, dies))
            if dies:
                own.append((end, "MEDS_DEATH", None))
                break
            own += [(end, "ICU_DISCHARGE//MICU", None), (end + DAY, "HOSPITAL_DISCHARGE//HOME", None)]
            now = end + int(rng.integers(3, 300)) * DAY
        events[subject] = own
    return events, labels


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A MEDS data set, and labels of all its splits as meds-dev-task lays them out."""
    root = tmp_path_factory.mktemp("records")
    splits = {name: patients(k, 1 + 1_000 * k, n) for k, (name, n) in enumerate(
        (("train", 100), ("tuning", 20), ("held_out", 25)))}  # fmt: skip
    made_up.write(root / "meds", **{name: events for name, (events, _) in splits.items()})
    shutil.rmtree(root / "meds" / ".parts")
    for name, (_, labels) in splits.items():
        subjects, times, values = zip(*labels, strict=True)
        path = root / "labels" / TASK / name / "0.parquet"
        path.parent.mkdir(parents=True)
        kinds = {"integer_value": pa.int64(), "float_value": pa.float32(), "categorical_value": pa.string()}
        empty = {name: pa.nulls(len(labels), kind) for name, kind in kinds.items()}
        times = pa.array(times, pa.int64()).cast(pa.timestamp("us"))
        pq.write_table(
            pa.table({"subject_id": subjects, "prediction_time": times, "boolean_value": values, **empty}), path
        )
    return root


def run(command, output_dir, cwd, model_dir=FOLDER, **values):
    """As `meds-dev-model` does: a script of the command, with all placeholders in it filled."""
    output_dir.mkdir(parents=True)
    text = command.format(output_dir=output_dir, model_dir=model_dir, demo=True, **values)
    script = output_dir / "cmd.sh"
    script.write_text("\n".join(["#!/bin/bash", "set -e", text]))
    bin_first = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(script)], cwd=cwd, env=bin_first, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pretrained(records, tmp_path_factory):
    root = tmp_path_factory.mktemp("meds dev")
    run(MODEL["commands"]["unsupervised"]["train"], root / "train", root, dataset_dir=records / "meds")
    return root / "train"


@pytest.fixture(scope="module")
def predicted(records, pretrained):
    """The folder of the predictions, and what the command says."""
    out = pretrained.parent / TASK / "predict"
    values = {"dataset_dir": records / "meds", "labels_dir": records / "labels" / TASK, "split": "held_out"}
    command = MODEL["commands"]["supervised"]["predict"]
    return out, run(command, out, pretrained.parent, model_initialization_dir=pretrained, **values)


def test_the_commands_as_meds_dev_runs_them(records, pretrained, predicted):
    out, told = predicted
    (path,) = out.rglob("*.parquet")
    table = pq.read_table(path)
    assert {field.name: field.type for field in table.schema} == SCHEMA
    assert all(table[name].null_count == 0 for name in SCHEMA)
    order = [("subject_id", "ascending"), ("prediction_time", "ascending")]
    asked = pq.read_table(records / "labels" / TASK / "held_out").sort_by(order)
    table = table.sort_by(order)
    for name in ("subject_id", "prediction_time", "boolean_value"):
        assert table[name].to_pylist() == asked[name].to_pylist()
    probability = table["predicted_boolean_probability"].to_numpy()
    assert ((probability > 0) & (probability < 1)).all() and len(set(probability.tolist())) > len(table) / 2
    assert table["predicted_boolean_value"].to_pylist() == (probability >= 0.5).tolist()
    assert f"icu_mortality_24h: {disclosure.words(len(table), generated=False)} predictions" in told  # they may be real
    assert (pretrained / "study").stat().st_mode & 0o077 == 0


def test_a_task_is_read_from_its_file(records, pretrained, tmp_path):
    """Where the folder lies in MEDS-DEV, beside tasks and data sets."""
    model = meds_dev_files.lay_out(tmp_path / "MEDS DEV")
    name, lactate = "abnormal_lab/lactate", meds_dev_files.abnormal("lactate", "value_min", 3)
    meds_dev_files.write(tmp_path / "MEDS DEV" / "tasks" / f"{name}.yaml", lactate)
    codes = meds_dev_files.predicates()["predicates"] | {"lactate": {"code": "LAB//50813//mmol/L"}}
    meds_dev_files.write(tmp_path / "MEDS DEV" / "datasets" / "MIMIC-IV" / "predicates.yaml", {"predicates": codes})
    labels, out = tmp_path / "MIMIC-IV" / "labels" / name, tmp_path / "out"
    shutil.copytree(records / "labels" / TASK, labels)
    told = run(
        MODEL["commands"]["supervised"]["predict"], out, tmp_path, model,
        dataset_dir=records / "meds", labels_dir=labels, split="held_out", model_initialization_dir=pretrained,
    )  # fmt: skip
    asked = pq.read_table(labels / "held_out")
    assert len(pq.read_table(out / predict.FILE)) == len(asked) and "abnormal_lab-lactate: " in told
    assert "LAB//50813//MMOL/L above 3: " in told and "share of the train split's values in it" in told


def test_a_threshold_on_an_edge_is_what_its_bins_are(records, pretrained, tmp_path):
    code, vocabulary = "LAB//50813//MMOL/L", timelines.vocabulary(pretrained / "study")
    breaks = vocabulary.quantiles[code]
    beyond = tuple(f"{code}//Q{k}" for k in range(7, len(breaks) + 2))
    common = {"name": "lactate", "open": ("HOSPITAL_DISCHARGE", "MEDS_DEATH"), "horizon_days": 1.0}
    labels, found = records / "labels" / TASK, []
    for asks in ({"values": (Bound(code, above=breaks[5]),)}, {"positive": beyond}):
        task = label_files.from_labels(labels, **common, **asks)
        out = tmp_path / str(len(found))
        predict.predict(pretrained / "study", task, out, "held_out", copies=4, new_tokens=64)
        found.append(pq.read_table(out / predict.FILE)["predicted_boolean_probability"].to_numpy())
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert len(set(found[0].tolist())) > 5
    # Between two edges it lies between them
    middle = label_files.from_labels(labels, **common, values=(Bound(code, above=(breaks[5] + breaks[6]) / 2),))
    done = predict.predict(pretrained / "study", middle, tmp_path / "middle", "held_out", copies=4, new_tokens=64)
    assert "1 is cut" in done["thresholds"][0]
    less = pq.read_table(tmp_path / "middle" / predict.FILE)["predicted_boolean_probability"].to_numpy()
    assert less.mean() < found[0].mean()


def test_predictions_do_not_depend_on_who_else_is_asked(records, pretrained, predicted, tmp_path):
    # As many as are of the same program as all of them, which is compiled already.
    some = pq.read_table(records / "labels" / TASK / "held_out" / "0.parquet").slice(5, 20)
    pq.write_table(some, tmp_path / "some.parquet")
    task = predict.outcome(tmp_path / "some.parquet", "icu_mortality_24h")
    options = {"copies": 4, "new_tokens": 64, "keep_futures": True}  # as in the demo, and the futures
    done = predict.predict(pretrained / "study", task, tmp_path / "some", "test", **options)
    assert done["stays"] == 20 and done["left_out"] == {}
    every = pq.read_table(predicted[0] / predict.FILE).to_pylist()
    both = {(r["subject_id"], r["prediction_time"]): r["predicted_boolean_probability"] for r in every}
    for row in pq.read_table(tmp_path / "some" / predict.FILE).to_pylist():
        expected = both[row["subject_id"], row["prediction_time"]]
        assert row["predicted_boolean_probability"] == pytest.approx(expected, rel=1e-3)
    futures = trajectories.read(tmp_path / "some" / predict.TRAJECTORIES / "held_out")
    asked = set(zip(some["subject_id"].to_pylist(), some["prediction_time"].to_pylist(), strict=True))
    assert len(futures) == 4
    for table in futures:
        assert set(zip(table["subject_id"].to_pylist(), table["prediction_time"].to_pylist(), strict=True)) == asked
    assert {code for table in futures for code in table["code"].to_pylist()} & {"MEDS_DEATH", "ICU_DISCHARGE"}


def test_parts_are_put_together(records, pretrained, tmp_path, monkeypatch):
    def drawn(model, params, asked, report):
        """Futures that tell which sample they are of, by the sums from which the probability is made."""
        ids, gaps, copies, new_tokens = asked.ids, asked.gaps, asked.copies, asked.new_tokens
        shares = (ids % np.uint64(1_009) / 1_009 + gaps / 100).astype(np.float32)[:, None, None].repeat(copies, axis=1)
        report(len(ids) * copies * new_tokens)
        tokens = np.ones((len(ids), copies, new_tokens), np.int32)
        nothing = np.zeros(shares.shape, np.int8)
        return simulate.Futures(
            *(tokens, tokens.sum(axis=2), nothing, nothing > 0, shares, shares),
            *(2 * np.ones_like(shares) - shares, shares, 0 * shares),
        )

    monkeypatch.setattr(simulate, "simulate", drawn)
    monkeypatch.setattr(predict, "restored_params", lambda *cell: (None, None))
    task, tables = predict.outcome(records / "labels" / TASK), []
    for at_once in (7, 1_000):
        monkeypatch.setattr("ehr_scaling.outcomes.parts.AT_ONCE", at_once)
        done = predict.predict(pretrained / "study", task, tmp_path / str(at_once), "tuning", copies=2, new_tokens=8)
        tables.append(pq.read_table(tmp_path / str(at_once) / predict.FILE))
        assert done["stays"] == len(tables[-1]) > 14 and done["bounded"] == pytest.approx(1.0)
    assert tables[0] == tables[1]
    assert len(set(tables[0]["predicted_boolean_probability"].to_pylist())) == len(tables[0])


def test_mistakes_are_told_in_one_line(records, pretrained, tmp_path):
    study = pretrained / "study"
    task = predict.outcome(records / "labels" / TASK)
    with pytest.raises(UserError, match="--split=dev is none: take one of train, tuning, held_out"):
        predict.predict(study, task, tmp_path, "dev")
    with pytest.raises(UserError, match="--cell=abc is not in"):
        predict.predict(study, task, tmp_path, "held_out", cell="abc")
    with pytest.raises(UserError, match="--copies=0: take 1 or more"):
        predict.predict(study, task, tmp_path, "held_out", copies=0)
    with pytest.raises(UserError, match="needs the token NOT_THERE"):
        lacking = predict.outcome(records / "labels", positive=["NOT_THERE"], negative=["MEDS_DEATH"])
        predict.predict(study, lacking, tmp_path, "held_out")
    shutil.copytree(study / "grid", tmp_path / "untrained" / "grid")
    shutil.copytree(study / "timelines", tmp_path / "untrained" / "timelines")
    with pytest.raises(UserError, match="holds no finished run"):
        predict.predict(tmp_path / "untrained", task, tmp_path, "held_out")
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize("alias, name", meds_dev.BY_NAME.items())
def test_the_end_of_the_path_names_the_task(tmp_path, alias, name):
    task = predict.outcome(tmp_path / "MIMIC-IV" / alias)
    assert task == predict.outcome(tmp_path / "MIMIC-IV" / alias, name)
    assert task.labels.endswith(alias) and task.positive and task.kind == "binary"


def test_what_cannot_be_asked_of_labels(tmp_path):
    with pytest.raises(UserError, match="does not end with the name of a task"):
        predict.outcome(tmp_path / "abnormal_lab" / "cbc" / "anemia" / "first_24h")
    with pytest.raises(UserError, match="--task=nonsense is none"):
        predict.outcome(tmp_path, "nonsense")
    with pytest.raises(UserError, match="--task=drg cannot be asked of labels"):
        predict.outcome(tmp_path, "drg")
    with pytest.raises(UserError, match="give one of them"):
        predict.outcome(tmp_path, "drg", positive=["A"])


def test_the_folder_is_what_meds_dev_reads():
    metadata = MODEL["metadata"]
    assert set(metadata) == {"description", "links", "contacts"} and isinstance(metadata["description"], str)
    assert all(link.startswith("https://") for link in metadata["links"])
    assert metadata["contacts"] and all(isinstance(contact["name"], str) for contact in metadata["contacts"])
    assert {kind: set(stages) for kind, stages in MODEL["commands"].items()} == {
        "unsupervised": {"train"},
        "supervised": {"predict"},
    }
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"ehr_scaling=={ehr_scaling.__version__}"]
    assert "PIP_FIND_LINKS" in lines[0] and "PIP_FIND_LINKS" in (FOLDER / "README.md").read_text()
    assert {"README.md", "refs.bib"} <= {path.name for path in FOLDER.iterdir()}
