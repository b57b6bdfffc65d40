"""What every fuzz test asks: a result, or one line, in bounded time."""

import os
import time

from hypothesis import HealthCheck, settings

from ehr_scaling.errors import UserError

SECONDS = 20  # of one input, on a machine that does other work too
EXAMPLES = int(os.environ.get("EHR_SCALING_FUZZ", "0"))


def fuzz(examples):
    """Settings of a test: so many examples, or EHR_SCALING_FUZZ where that is set."""
    return settings(max_examples=EXAMPLES or examples, deadline=None, suppress_health_check=list(HealthCheck))


def result_or_line(function, *args, **options):
    """What the function returns, None where it refuses its input in one line; anything else raises."""
    began = time.monotonic()
    try:
        return function(*args, **options)
    except UserError as e:
        assert len(str(e).splitlines()) == 1 and len(str(e)) < 2_000
        return None
    finally:
        assert time.monotonic() - began < SECONDS
