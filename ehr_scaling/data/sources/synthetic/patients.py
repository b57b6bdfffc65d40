"""Generated patients: the default source, so that a whole study runs with no data at hand.

Causal structure (the fixed "hospital" is in `synthetic_tables`, lives in `synthetic_course`, what is written down of
them in `synthetic_record`):
  kind of patient, age       → chronic diseases (Zipf), frailty, a personal baseline of each measurement
  diseases, last stay        → principal disease of the next stay, one that goes with it, ward, kind of admission
  disease, frailty           → severity at admission and the level it drifts to, an Ornstein-Uhlenbeck process
  severity                   → ICU with denser rounds, length of stay, death in hospital or after, readmission
  disease, round             → which panels and items are drawn, in the ward's habitual order
  diseases, severity, six latent factors (AR 1), baseline, noise → values of labs and vitals
  disease × tier of severity → a protocol: an ordered list of drugs, each given at its own rate
  values beyond a threshold  → a drug, which moves the next value back
  diseases, course           → discharge diagnoses, place of discharge
Frequencies of diseases, and so of protocols and signatures, follow Zipf's law: frequent habits are learnt from few
tokens, rare ones only from many, which is what makes loss fall smoothly with data and with model size. Values share
a slow latent level, so that knowing them better needs no sudden insight. Nothing here is medicine.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Splits, as_written, told, written
from ehr_scaling.data.shards import Runner, once, run
from ehr_scaling.data.sources.synthetic import course, record
from ehr_scaling.data.sources.synthetic import tables as hospital
from ehr_scaling.errors import UserError

VERSION = 2  # of the patients that a seed gives: raise it with every change to them
_STREAM = 1  # of random numbers: lives and events are those of version 1, whose ids were others
BLOCK = 2_000  # patients generated at once, from a generator of their own: more patients never change earlier ones
# From here on nobody in MIMIC-IV (10,000,000 to 19,999,999), or in its files as they are generated, has an id: labels
# of real patients find nobody among generated ones, instead of somebody else.
FIRST_ID = 90_000_001


def inputs(raw: Path | None = None, *, patients: int = 20_000) -> dict[str, Any]:
    """What determines the events besides seed and splits, as JSON. Raises UserError as `extract` does."""
    _check(raw, patients)
    return {"source": "synthetic", "version": VERSION, "patients": patients}


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: Splits = (0.8, 0.1, 0.1),
    patients: int = 20_000,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Generate `patients` patients and write them as MEDS events into the folder `out`.

    Args: raw, None; out, an existing folder; seed, not negative, fixes every patient (a larger `patients` keeps the
      earlier ones as they are); splits, fractions of train, tuning and held_out, or a split file.
    Returns: the summary of `events.finish` with the source's name and licence.
    Raises: UserError when raw files are given, the seed is negative, or there are fewer than ten patients.
    """
    _check(raw, patients)
    if seed < 0:
        raise UserError(f"--config.data.seed={seed} must not be negative")
    met = told(splits, FIRST_ID + np.arange(patients))
    blocks = range(-(-patients // BLOCK))
    records = [out / events.PARTS / f"block-{k}.json" for k in blocks]
    told_splits = written(splits, out / events.PARTS)
    run(_write, [(out, seed, told_splits, patients, k) for k in blocks], records, runner or Runner(), "generate")
    metadata = {
        "dataset_name": "ehr_scaling generated patients",
        "dataset_version": str(VERSION),
        "license": "Apache-2.0",
    }
    summary = events.finish(out, metadata)
    return {**summary, "name": metadata["dataset_name"], "license": metadata["license"], "generated": True, **met}


def _check(raw: Path | None, patients: int) -> None:
    if raw is not None:
        raise UserError(f"the source 'synthetic' generates its patients and reads no files: drop --raw={raw}")
    if patients < 10:
        raise UserError(f"--config.data.patients={patients} is too few to split: take 10 or more, 20000 for a study")


def _write(folder: str, seed: int, told_splits: Any, patients: int, k: int) -> None:
    """Block k is shard k of every split: its patients are a random sample, as any others are."""
    out = Path(folder)

    def make() -> dict[str, Any]:
        first = k * BLOCK
        codes = pa.array(hospital.CODES, pa.string())
        patient, minute, code, value = block(seed, k)
        split = events.assign_splits(FIRST_ID + first + np.arange(BLOCK), seed, as_written(told_splits))
        for i, name in enumerate(events.SPLITS):
            rows = np.flatnonzero((split[patient] == i) & (patient < patients - first))
            time = pa.array(minute[rows] * 60_000_000, pa.int64(), mask=minute[rows] == record.STATIC)
            columns = [
                pa.array(FIRST_ID + first + patient[rows], pa.int64()),
                time.cast(pa.timestamp("us")),
                pa.DictionaryArray.from_arrays(pa.array(code[rows]), codes),
                pa.array(value[rows], pa.float32(), mask=np.isnan(value[rows])),
                pa.nulls(len(rows), pa.large_string()),
            ]
            events.write_shard(out, name, k, pa.Table.from_arrays(columns, names=events.SCHEMA.names))
        return {}

    once(out / events.PARTS / f"block-{k}.json", make)


def block(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The events of patients index·BLOCK to (index + 1)·BLOCK - 1, in the order of tokens.

    Returns: four arrays (n,): int64 number of the patient in the block; int64 minutes since 1970, record.STATIC for
    null; int16 index into hospital.CODES; float32 value, NaN for none.
    """
    rng = np.random.default_rng([seed, index, _STREAM])
    people = course.people(rng, BLOCK)
    stays, rounds = course.stays(rng, people)
    return record.events(rng, people, stays, rounds)
