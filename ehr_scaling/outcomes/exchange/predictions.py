"""Predictions as files: yes-or-no ones in the prediction schema of MEDS, numbers and classes in the same manner."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from ehr_scaling.data import parquet
from ehr_scaling.outcomes.asking.stays import Stays

_WHO = (
    pa.field("subject_id", pa.int64(), nullable=False),
    pa.field("prediction_time", pa.timestamp("us"), nullable=False),
)
# Exactly these columns: meds-evaluation 0.0.6 refuses any other, and lacks none.
BINARY = pa.schema(
    [
        *_WHO,
        pa.field("boolean_value", pa.bool_()),
        pa.field("predicted_boolean_value", pa.bool_()),
        pa.field("predicted_boolean_probability", pa.float32()),
    ]
)
# That schema knows no numbers and classes; labels are as in the label schema of MEDS.
VALUES = pa.schema([*_WHO, pa.field("float_value", pa.float32()), pa.field("predicted_float_value", pa.float32())])
CLASSES = pa.schema(
    [
        *_WHO,
        pa.field("categorical_value", pa.string()),
        pa.field("predicted_categorical_value", pa.string()),
        pa.field("predicted_categorical_probability", pa.float32()),
    ]
)


def write_binary(path: Path, stays: Stays, probability: np.ndarray) -> None:
    """Probabilities, float (n,); the predicted value is a probability of one half or more. Labels may be unknown."""
    labels = stays.labels if stays.labels.dtype == bool else [None] * len(stays.times)
    _write(path, BINARY, stays, [labels, probability >= 0.5, probability.astype(np.float32)])


def write_values(path: Path, stays: Stays, values: np.ndarray) -> None:
    """Numbers, float (n,)."""
    _write(path, VALUES, stays, [stays.labels.astype(np.float32), values.astype(np.float32)])


def write_classes(path: Path, stays: Stays, names: list[str], probabilities: np.ndarray) -> None:
    """Of each stay the most probable of the classes `names`, by probabilities, float (n, classes)."""
    best = probabilities.argmax(axis=1)
    highest = probabilities[np.arange(len(best)), best].astype(np.float32)
    _write(path, CLASSES, stays, [[names[i] for i in stays.labels], [names[i] for i in best], highest])


def _write(path: Path, schema: pa.Schema, stays: Stays, columns: list[object]) -> None:
    who = [pa.array(stays.subject_ids, pa.int64()), pa.array(stays.times, pa.int64()).cast(pa.timestamp("us"))]
    arrays = [*who, *(pa.array(column, schema.field(2 + i).type) for i, column in enumerate(columns))]
    parquet.write(path, pa.Table.from_arrays(arrays, schema=schema))
