"""Made-up events for tests of the stages after the sources."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ehr_scaling.data.events import events

MINUTE = 60_000_000
DAY = 1440 * MINUTE
Event = tuple[int | None, str, float | None]  # µs or no time, code, value


def table(patients: dict[int, Sequence[Event]]) -> pa.Table:
    rows = [(subject, *event) for subject, history in patients.items() for event in history]
    subjects, times, codes, values = zip(*rows, strict=True)
    return pa.table(
        {
            "subject_id": pa.array(subjects, pa.int64()),
            "time": pa.array(times, pa.int64()).cast(pa.timestamp("us")),
            "code": pa.array(codes, pa.string()),
            "numeric_value": pa.array(values, pa.float32()),
            "text_value": pa.nulls(len(rows), pa.large_string()),
        }
    )


def write(folder: Path, **splits: dict[int, Sequence[Event]] | list[dict[int, Sequence[Event]]]) -> Path:
    """Write events; a split given as a list becomes one shard for each of its dicts."""
    folder.mkdir(parents=True)
    for split, given in splits.items():
        for k, shard in enumerate(given if isinstance(given, list) else [given]):
            events.write_shard(folder, split, k, table(shard))
    events.finish(folder, {"dataset_name": "made up"})
    return folder


def history(rng: np.random.Generator, visits: int) -> list[Event]:
    """A patient with static facts, labs with values, diagnoses, and gaps from minutes to years."""
    out: list[Event] = [
        (None, f"GENDER//{rng.choice(['F', 'M'])}", None),
        (None, "HEIGHT", float(rng.normal(170, 9))),
    ]
    now = int(rng.integers(0, 40 * 365)) * DAY
    if rng.random() < 0.9:
        out.append((now - int(rng.integers(20, 90)) * 365 * DAY, "MEDS_BIRTH", None))
        out.sort(key=lambda e: -(2**62) if e[0] is None else e[0])
    for _ in range(visits):
        now += int(np.exp(rng.normal(4, 2)) * DAY)
        out.append((now, f"HOSPITAL_ADMISSION//{rng.choice(['URGENT', 'ELECTIVE'])}//HOME", None))
        out.append((now, f"INSURANCE//{rng.choice(['A', 'B', 'C'])}", None))
        for _ in range(int(rng.integers(1, 12))):
            now += int(np.exp(rng.normal(5, 2)) * MINUTE)
            for lab in rng.choice(40, int(rng.integers(1, 5))):
                value = float(rng.normal(lab, 1 + lab % 3)) if rng.random() < 0.9 else None
                out.append((now, f"LAB//{lab}//MG/DL", value))
        out.append((now, "HOSPITAL_DISCHARGE//HOME", None))
        for _ in range(int(rng.integers(1, 5))):
            out.append((now, f"DIAGNOSIS//ICD//10//{rng.choice(['I50', 'E11', 'A41'])}{rng.integers(0, 30)}", None))
        if rng.random() < 0.3:
            out.append((now, "BMI (kg/m2)", float(rng.normal(27, 4))))
    return out


def cohort(seed: int, patients: int, first: int = 1) -> dict[int, list[Event]]:
    rng = np.random.default_rng(seed)
    return {first + i: history(rng, 1 + int(rng.geometric(0.4))) for i in range(patients)}


def splits(seed: int = 0, patients: int = 60) -> dict:
    """Three splits of a cohort; train in two shards."""
    return {
        "train": [cohort(seed, patients, 1), cohort(seed + 1, patients, 10_001)],
        "tuning": cohort(seed + 2, patients // 3, 20_001),
        "held_out": cohort(seed + 3, patients // 3, 30_001),
    }
