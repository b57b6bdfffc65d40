"""What every fuzz test asks: a result, or one line that tells nothing of a patient, in bounded time."""

import os
import re
import signal

from hypothesis import HealthCheck, settings

from ehr_scaling.errors import UserError

SECONDS = 20  # of one input, on a machine that does other work too
EXAMPLES = int(os.environ.get("EHR_SCALING_FUZZ", "0"))
PATIENT = 770_123_400  # ids of patients are this and up to 99 more, so that they are found in a message
SECRET = "Bartholomew"  # stands wherever there is free text
_TOLD = re.compile(rf"{str(PATIENT)[:-2]}|{SECRET}|2149-|2150-")


def fuzz(examples):
    """Settings of a test: so many examples, the same ones each time, or EHR_SCALING_FUZZ others where that is set."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def result_or_line(function, *args, secret=_TOLD, **options):
    """What the function returns; None where it refuses its input in one line. Anything else that it raises fails.

    Args: secret, what the line may not tell.
    """

    def late(*_):
        raise AssertionError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return function(*args, **options)
    except UserError as e:
        line = str(e)
        assert len(line.splitlines()) == 1
        assert len(line) < 2_000
        assert not secret.search(line)
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
