"""Stays and deaths that contradict each other: what no rule may break, whatever the records say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.sources import reconcile
from ehr_scaling.data.sources.reconcile import DAY, NEVER, NULL, Stays

TIME = st.one_of(st.just(NULL), st.integers(0, 40).map(lambda half: half * DAY // 2))
STAY = st.tuples(st.integers(0, 2), TIME, TIME, st.booleans(), st.one_of(st.just(NULL), TIME))


def arrays(rows):
    columns = list(zip(*rows, strict=True)) or [(), (), (), (), ()]
    kinds = (np.int64, np.int64, np.int64, bool, np.int64)
    return Stays(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


@settings(max_examples=400, deadline=None)
@given(st.lists(STAY, max_size=6), st.lists(TIME, min_size=3, max_size=3))
def test_what_holds_after_the_rules(rows, days):
    stays, dated = arrays(rows), reconcile.day_end(np.array(days, np.int64))
    s = reconcile.settle(stays, dated)
    has_admit, has_end = stays.admit != NULL, s.end != NULL
    assert (s.end >= stays.admit)[has_admit & has_end].all()
    death = s.death[stays.patient]
    # Who is left in a cohort lived when the stay began, and whoever left alive was alive until then.
    kept = s.kept & has_admit & (death != NULL)
    assert (stays.admit <= death)[kept].all()
    alive = kept & has_end & ~stays.died & (stays.death == NULL) & ~s.in_hospital[stays.patient]
    assert (s.end <= death)[alive].all()
    assert (s.closed == NEVER)[s.death == NULL].all()
    assert (s.closed >= s.death)[s.death != NULL].all()
    # A death is lost only where nothing but a time outside of all stays tells of it.
    told = dated != NULL
    assert (s.death != NULL)[told].all()
    died = np.unique(stays.patient[stays.died & (stays.end != NULL)])
    assert s.in_hospital[died].all()
    assert all(n > 0 for n in s.counts.values())
    # What is settled stays.
    told_of = np.where(stays.died | (stays.death != NULL), stays.death, NULL)
    again = reconcile.settle(stays._replace(end=s.end, death=told_of), dated)
    assert (again.death == s.death).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TIME, TIME, TIME), max_size=6), st.booleans())
def test_pairs(rows, intensive):
    begin, end, hospital = (np.array(column, np.int64) for column in (list(zip(*rows, strict=True)) or [(), (), ()]))
    left, kept, _ = reconcile.settle_pairs(begin, end, hospital, intensive=intensive)
    both = kept & (begin != NULL) & (left != NULL)
    assert (left >= begin + intensive)[both].all()
    assert ((left == NULL) == (end == NULL)).all()
    inside = both & (hospital != NULL) & (begin < hospital)
    assert (left <= np.maximum(hospital, begin + 1))[inside].all()
    assert kept.all() or intensive


def test_a_death_that_moves_may_come_to_lie_in_the_next_stay():
    day = lambda n: n * DAY  # noqa: E731
    stays = arrays([(0, day(1), day(5), False, NULL), (0, day(5) + 3600, day(9), False, NULL)])
    s = reconcile.settle(stays, np.array([day(2) - 1]))
    assert s.death[0] == day(10) - 1
    assert s.kept.all()
    assert s.counts == {reconcile.ALIVE: 1}


def test_organ_donors_and_the_second_stay():
    stays = arrays([(0, 0, DAY, True, DAY), (0, 2 * DAY, 3 * DAY, False, NULL)])
    s = reconcile.settle(stays, np.array([NULL]))
    assert s.kept.tolist() == [True, False]
    assert s.closed[0] == DAY
