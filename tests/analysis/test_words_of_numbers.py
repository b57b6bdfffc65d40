"""Rules that give words, asked with plain numbers on either side of each bound."""

import numpy as np
import pytest

from ehr_scaling.analysis import words
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.words import Place, Verdict

OPTIONS = Options()
YES, NO = Verdict("supported", ""), Verdict("unidentified", "")


def at(value):
    return words.at(None, Place(value, (1.0, 10.0), "FLOPs")).word


def profile(low, high, where=YES, name="alpha"):
    return words.profile(name, (low, high), where, OPTIONS).word


def window(other, others, *, wider):
    return words.window(YES, 0.5, (0.45, 0.55), other, others, named="the other", wider=wider).word


def plan(C=5.0, N=5.0, passes=(1.0, 4.0), line=(1.0, 10.0), missed=np.nan, repeats=False, anew=False):
    return words.plan(C, 10.0, {"N": (N, (1.0, 10.0))}, passes, line, missed, repeats=repeats, anew=anew).word


def follows(low, high, **settings):
    return words.follows((low, high), "a rise", inverted="worse", told="", **settings).word


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda: [at(v) for v in (0.9, 1.0, 10.0, 11.0, np.nan)], "esseu"),
        (lambda: [profile(0.3, 0.4), profile(np.nan, 0.4), profile(0.3, np.nan), profile(0.1, 0.9)], "suuu"),
        (lambda: [profile(0.3, 0.4, Verdict("extrapolated", "")), profile(1.0, 9.0, name="N")], "es"),
        (lambda: [words.shapes(YES, budgets=10, misfits=m, bracketed=8, thin=0, options=OPTIONS).word for m in (2, 3)],
         "su"),
        (lambda: [words.shapes(YES, budgets=10, misfits=0, bracketed=8, thin=t, options=OPTIONS).word for t in (4, 5)],
         "su"),
        (lambda: [window(0.6, (0.4, 0.8), wider=True), window(0.6, (0.4, 0.8), wider=False),
                  window(0.6, (0.56, 0.8), wider=False), window(0.5, (0.4, 0.8), wider=True)], "usus"),
        (lambda: [words.repeats(False, gain, "", 0.0, OPTIONS).word for gain in (0.1, -0.1)], "su"),
        (lambda: [words.repeats(True, 0.1, "", 0.0, OPTIONS).word], "u"),
        (lambda: [words.worth(NO, passes, (1.0, 2.0), YES).word for passes in (1, 2)], "su"),
        (lambda: [words.turn(None, (2.0, 3.0), better, chosen, YES).word
                  for better, chosen in ((True, ""), (False, ""), (True, "effective"))], "suu"),
        (lambda: [words.sealed(off, inside, "").word
                  for off, inside in ((0.01, 0.9), (0.04, 0.9), (0.01, 0.4), (np.nan, np.nan))], "suue"),
        (lambda: [follows(0.1, 0.2), follows(-0.1, 0.2), follows(-0.2, -0.1), follows(0.1, 0.2, off=2.0, constant=1.0)],
         "suuu"),
        (lambda: [words.above_chance(of, 0.55, (low, 0.6)).word
                  for of, low in ((YES, 0.51), (YES, 0.5), (YES, np.nan), (NO, 0.51))], "suuu"),
        (lambda: [plan(), plan(N=0.5), plan(N=20.0), plan(passes=(8.0, 4.0)), plan(line=(6.0, 10.0)),
                  plan(line=(1.0, 4.0)), plan(line=None), plan(missed=0.05), plan(C=20.0),
                  plan(anew=True), plan(anew=True, repeats=True)], "seeeeeeeees"),
        (lambda: [words.paired(cells, "N and D", "").word for cells in (3, 2)], "su"),
        (lambda: [words.difference(bounds, "it").word for bounds in ((-1, 1), (1, 2), (-2, -1))], "wdd"),
        (lambda: [words.shift(bounds, 0.0, OPTIONS).word for bounds in ((-0.5, 0.9), (1.1, 3), (-3, -1.1), (-0.5, 3))],
         "smmu"),
        (lambda: [words.budget("", bracketed=True, thin=t, failed=f, options=OPTIONS).word
                  for t, f in ((False, 0.0), (True, 0.0), (False, 0.2))], "suu"),
        (lambda: [words.exponent((0.4, high), 0.0, points, OPTIONS).word
                  for high, points in ((0.5, 3), (0.8, 3), (0.5, 2), (0.5, 1))], "suuu"),
    ],
)  # fmt: skip
def test_each_word_changes_at_its_bound(ask, expected):
    """Words by their first letter."""
    assert "".join(word[0] for word in ask()) == expected


def test_an_inverted_or_constant_score_says_so():
    inverted = words.follows((-0.2, -0.1), "a fall", inverted="lower is worse", told="")
    assert "lower is worse" in inverted.reason
    again = words.plan(20.0, 10.0, {}, (2.0, 4.0), (1.0, 10.0), np.nan, repeats=False, anew=False)
    told = words.plan(20.0, 10.0, {}, (2.0, 4.0), (1.0, 10.0), np.nan, repeats=True, anew=False)
    assert "more compute may gain less" in again.reason and "may gain less" not in told.reason
    assert "say no more than that it is below" in words.profile("alpha", (np.nan, 0.4), YES, OPTIONS).reason
    few = words.follows((-0.1, 0.2), "a rise", inverted="", told="")
    assert "no dependence told" in few.reason and "no dependence" not in inverted.reason
