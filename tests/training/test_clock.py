"""When a recovery checkpoint is due."""

import jax
import pytest
from jax.experimental import multihost_utils

from ehr_scaling.training import clock


@pytest.fixture
def now(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: seconds[0])
    return seconds


def test_alone_it_is_after_so_many_seconds(now):
    due = clock.Due(10.0)
    told = []
    for number in range(1, 41):
        now[0] += 1.0
        if due(number):
            told.append(number)
            due.saved()
    assert told == [11, 22, 33]


def test_several_processes_go_by_the_pace_of_the_first(now, monkeypatch):
    """The first dispatch compiles, so it tells nothing of the pace."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    heard = []
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda x: heard.append(int(x)) or 7)
    due = clock.Due(10.0)
    told = []
    for number in range(1, 31):
        now[0] += 60.0 if number == 1 else 2.0
        told += [number] if due(number) else []
    assert heard == [5] and told == [7, 14, 21, 28]  # what process 0 says, whatever is found here
