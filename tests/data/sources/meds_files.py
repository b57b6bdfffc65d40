"""Made-up MEDS data sets."""

from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling.data.events import events
from ehr_scaling.data.sources.meds import dataset as meds

SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
    ]
)
T0 = datetime(2100, 1, 1)


def table(rows, schema=SCHEMA):
    """From (subject, hours or None, code, number or None)."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    times = [None if h is None else T0 + timedelta(hours=h) for h in columns[1]]
    return pa.table([columns[0], times, columns[2], columns[3], ["made up"] * len(rows)], schema=schema)


def put(root, shards, splits=None, **options):
    for name, t in shards.items():
        path = root / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(t, path, **options)
    if splits is not None:
        (root / "metadata").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"subject_id": pa.array(list(splits), pa.int64()), "split": list(splits.values())}),
            root / "metadata" / "subject_splits.parquet",
        )
    return root


def extract(root, out, **options):
    out.mkdir(parents=True)
    summary = meds.extract(root, out, **{"seed": 0, **options})
    found = {s: [pq.read_table(p) for p in sorted((out / "data" / s).glob("*.parquet"))] for s in events.SPLITS}
    return summary, found
