"""A work directory in a bucket: everything is worked on in a mirror of it on this machine's disk.

`--workdir=gs://bucket/study` (or s3://) gives a local folder, the mirror, in which `BUCKET` names the bucket. Whoever
reads something asks for it first (`fetch`), whoever has made something hands it over (`store`); of a folder that is
not in a mirror both do nothing. A commit is the record that is written last: `store` puts it after the files that it
vouches for. Who works on what is told by leases (`lease`, `turn`).
"""

from ehr_scaling.storage.leases import Held, Lease
from ehr_scaling.storage.mirror import (
    BUCKET,
    CHECKPOINT,
    doubtful_locks,
    fetch,
    forget,
    given,
    handed_over,
    in_bucket,
    lease,
    listed,
    local,
    names,
    store,
    turn,
    unsent,
)

__all__ = [
    "BUCKET",
    "CHECKPOINT",
    "Held",
    "Lease",
    "doubtful_locks",
    "fetch",
    "forget",
    "given",
    "handed_over",
    "in_bucket",
    "lease",
    "listed",
    "local",
    "names",
    "store",
    "turn",
    "unsent",
]
