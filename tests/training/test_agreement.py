"""What one of several processes meets, all of them learn at the same place; here the other one is made up."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ehr_scaling.errors import RunFailed
from ehr_scaling.processes import agreement


@pytest.fixture(params=[False, True], ids=["all is well there", "it fails there"])
def there(request, monkeypatch):
    """Whether process 0 meets something, where this one is process 1."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([np.int32(request.param), x]))
    return request.param


def fails():
    raise OSError("Stale file handle")


def test_what_is_seen_in_all_is_given_and_what_one_meets_ends_it_in_all(there):
    if there:
        with pytest.raises(RunFailed, match="process 0 cannot go on with this run: see what it says"):
            agreement.together(lambda: 7)
        with pytest.raises(RunFailed, match="as it is said"):
            agreement.together(lambda: 7, "as it is said")
    else:
        assert agreement.together(lambda: 7) == 7
    with pytest.raises(OSError, match="Stale"):  # each tells what it met itself
        agreement.together(fails)
    assert agreement.any_process(False) == there
    assert agreement.any_process(True)


def test_alone_a_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(multihost_utils, "process_allgather", None)
    assert [agreement.any_process(flag) for flag in (False, True)] == [False, True]
    assert agreement.together(lambda: None) is None
    with pytest.raises(OSError, match="Stale"):
        agreement.together(fails)


def test_all_go_by_what_process_0_sees(monkeypatch):
    assert agreement.by_process_0([True, False]) == [True, False]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda x: 1 - x)
    assert agreement.by_process_0([True, False]) == [False, True]
