"""The law of memory: a known one is recovered, with intervals that hold it, and noise is given no word."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from ehr_scaling import artifacts
from ehr_scaling.analysis import words
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import audits, memory
from ehr_scaling.analysis.outcomes.audits import LOSS, RATIO, UNSHARED, Audit
from ehr_scaling.analysis.outcomes.scores import Measure
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.wording import SPACE
from ehr_scaling.errors import UserError

TRUTH = {"N": 0.5, "times": 0.7, "patients": -0.6}
AT = (1e5, 8.0, 2500.0)
OPTIONS = Options(draws=300)


def true_area(N, times, patients, factor):
    return ndtr(factor * (N / 3e4) ** 0.5 * times**0.7 * (patients / 3000) ** -0.6 / np.sqrt(2))


def simulated(rng, factor=0.25, shared=0.5, error=0.01, seeds=2):
    """A grid of models whose AUROCs have noise of this error, of which a share is the same for all."""
    common, made = rng.standard_normal(), []
    for N in (1e4, 4e4, 2e5):
        for times, patients in ((1, 1200), (4, 1200), (16, 1200), (1, 4800), (4, 4800), (1, 9600)):
            for seed in range(seeds):
                noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal()
                area = true_area(N, times, patients, factor)
                each = 2 * error * np.sqrt(area * (1 - area))  # as the errors of areas do, it falls towards 1
                value = float(area + each * noise)
                measure = Measure(value, value - 1.96 * each, value + 1.96 * each)
                found = {LOSS: measure, RATIO: measure}
                D, fraction, name = 1e3 * times * patients, patients / 9600, f"{N}-{times}-{patients}-{seed}"
                made.append(Audit(name, "", N, D, fraction, times, times, patients, found, True, False))
    return made


def test_a_known_law_is_recovered():
    law = memory.fit(LOSS, simulated(np.random.default_rng(0), error=1e-4), OPTIONS)
    assert law is not None and law.verdict.supported and law.error < 0.002 < 0.05 < law.constant
    for name, (value, (low, high)) in law.exponents.items():
        assert value == pytest.approx(TRUTH[name], abs=0.02) and low <= value <= high
    value, (low, high) = law(*AT)
    assert value == pytest.approx(true_area(*AT, 0.25), abs=1e-3) and high - low < 0.01
    assert law.word(*AT).supported
    assert law.word(1e6, 8.0, 2500.0).word == "extrapolated" and "body parameters" in law.word(1e6, 8.0, 2500.0).reason


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_supported_intervals_hold_the_truth(shared):
    """As often as the word promises, whether the noise of models is their own or that of the patients they share."""
    rng, inside, supported, place = np.random.default_rng(1), 0, 0, (4e4, 4.0, 4800.0)
    for _ in range(50):
        law = memory.fit(LOSS, simulated(rng, shared=shared, seeds=1), Options(draws=60))
        supported += law.verdict.supported
        low, high = law(*place)[1]
        inside += low <= true_area(*place, 0.25) <= high
    assert supported == 50 and inside >= 45


def test_nothing_remembered_is_given_no_word():
    rng = np.random.default_rng(2)
    told = [memory.fit(LOSS, simulated(rng, factor=0.0, seeds=1), Options(draws=60)).verdict for _ in range(30)]
    assert sum(verdict.supported for verdict in told) <= 3
    assert any("no dependence told" in verdict.reason or "a constant predicts" in verdict.reason for verdict in told)


def test_models_that_started_from_another_are_in_no_law():
    """Of more patients than their own run read, they would be taken for models that remember much of few."""
    made = simulated(np.random.default_rng(3))
    wrong = {LOSS: Measure(0.99, 0.98, 1.0)}
    started = [a._replace(cell=f"{a.cell}s", started=True, measures=wrong) for a in made[:6]]
    law = memory.fit_all([*made, *started], OPTIONS)[LOSS]
    assert law.models == len(made) and (law.theta == memory.fit_all(made, OPTIONS)[LOSS].theta).all()


def test_what_does_not_vary_is_none_of_the_law():
    every = [a for a in simulated(np.random.default_rng(3)) if a.patients == 1200]
    law = memory.fit(LOSS, every, OPTIONS)
    assert law.names == ("N", "times") and law.seen["patients"] == (1200, 1200)
    assert law.word(1e5, 8.0, 9600.0).word == "extrapolated" and law.word(1e5, 8.0, 1200.0).supported
    in_step = [a._replace(patients=9600 / a.times) for a in every]
    assert memory.fit(LOSS, in_step, OPTIONS).names == ("N", "times")
    assert memory.fit(LOSS, every[:4], OPTIONS) is None
    nearly = [a._replace(N=1e4 * 1.07**k, D=1e6 + k, times=2.0) for k, a in enumerate(every[:6])]
    assert memory.fit(LOSS, nearly, OPTIONS) is None  # none of the three by a factor of 1.5


def test_seeds_are_one_cell_though_they_read_a_part_of_a_pass(monkeypatch):
    """Times read and patients then differ by seed, the tokens and the fraction do not."""
    made, cells = simulated(np.random.default_rng(3)), []
    apart = [a._replace(times=a.times * (1 + 0.02 * (k % 2)), patients=a.patients + k) for k, a in enumerate(made)]
    multipliers = memory.multipliers
    monkeypatch.setattr(memory, "multipliers", lambda c, *rest: (cells.append(c), multipliers(c, *rest))[1])
    memory.fit(LOSS, apart, OPTIONS)
    assert len(np.unique(cells[0])) == 18 and (cells[0][::2] == cells[0][1::2]).all()


def test_excess_is_fitted_as_it_is():
    """A share of 0 to 1; where a count is not told, by the middle of what it may be."""
    rng, made = np.random.default_rng(4), []
    for a in simulated(rng):
        share = float(np.clip(0.02 * (a.N / 3e4) * a.times**0.5, 0, 1))
        measure = Measure(share if share > 0.01 else np.nan, share - 0.004, share + 0.004)
        made.append(a._replace(measures={UNSHARED: measure}))
    law = memory.fit(UNSHARED, made, OPTIONS)
    assert law.verdict.supported and law(1e5, 4.0, 1200)[0] == pytest.approx(0.02 / 0.3 * 2, rel=0.03)
    assert law(1e9, 16.0, 1200)[0] == 1.0


def test_a_sentence_for_a_plan():
    laws = memory.fit_all(simulated(np.random.default_rng(0), error=1e-3), OPTIONS)
    assert set(laws) == {RATIO, LOSS}
    again = {k: memory.from_json(k, json.loads(json.dumps(plain(memory._law_to_json(law))))) for k, law in laws.items()}
    for these in (laws, again):
        said = memory.sentence(these, 1e5, 8.0, 2500)
        start = "with 2.5 k patients and 8 passes a model of 100 k body parameters: membership AUROC 0.9"
        assert said.replace(SPACE, " ").startswith(start)
        assert said.endswith("supported")
    # Half a pass is one of half the patients
    half = memory.sentence(laws, 1e5, 0.5, 5000).partition("AUROC ")[2]
    assert half == memory.sentence(laws, 1e5, 1.0, 2500).partition("AUROC ")[2] != ""
    # Of the ratio nothing may be told where the loss alone tells something
    untold = replace(laws[RATIO], verdict=words.Verdict(words.UNIDENTIFIED, ""))
    alone = memory.sentence({LOSS: laws[LOSS]}, 1e5, 8.0, 2500)
    assert memory.sentence({RATIO: untold, LOSS: laws[LOSS]}, 1e5, 8.0, 2500) == alone != ""
    assert memory.sentence({RATIO: untold}, 1e5, 8.0, 2500) == ""
    assert memory.sentence({}, 1e5, 8.0, 2500) == memory.sentence(laws, 1e5, 8.0, np.nan) == ""


def record(cell, **changes):
    attack = {"auroc": 0.6, "low": 0.55, "high": 0.65, "true_positives": {"value": 0.03, "low": 0.02, "high": 0.05}}
    ratio = {**attack, "auroc": 0.7, "low": 0.68, "high": 0.72, "reference": {"saw_members": False}}
    row = {"tokens": 8, "match": "exact", "excess": {"value": None, "low": -0.01, "high": 0.02}}
    return {
        "cell": cell, "size": "3.5k", "N": 3500, "D": 1e6, "fraction": 0.5, "started_from": None,
        "passes": 2.0, "times_read": 2.0, "patients_read": 900,
        "membership": {"loss": attack, "ratio": ratio}, "rare": [{"suppressed": "x"}],
        "continuation": {"rows": [{**row, "continuations": "all"}, {**row, "match": "near", "continuations": "all"}]},
        **changes,
    }  # fmt: skip


def test_audits_are_read(tmp_path):
    for cell in ("a", "b", "other"):
        artifacts.write_sealed(tmp_path / f"{cell}.json", record(cell, patients_read=None if cell == "b" else 900))
    first, second = audits.read(tmp_path, {"a", "b"})
    assert (first.D, first.fraction, first.started) == (1e6, 0.5, False)
    assert first.measures[RATIO] == Measure(0.7, 0.68, 0.72) and first.measures[LOSS].value == 0.6 and first.fair
    assert np.isnan(first.measures[audits.GIVEN_BACK].value) and first.measures[audits.GIVEN_BACK].high == 0.02
    assert set(first.measures) == {LOSS, RATIO, audits.FOUND, audits.GIVEN_BACK} and np.isnan(second.patients)
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("0.72", "0.99"))
    with pytest.raises(UserError, match=r"a\.json is damaged .* delete \S+a\.json and run launch.audit again"):
        audits.read(tmp_path, {"a"})
    with pytest.raises(UserError, match=r"--audit=\S+aduit: no such directory; run launch.audit first"):
        audits.read(tmp_path / "aduit", {"a"})
    artifacts.write_sealed(tmp_path / "a.json", {"cell": "a"})
    with pytest.raises(UserError, match=r"a\.json is no audit of this version"):
        audits.read(tmp_path, {"a"})
