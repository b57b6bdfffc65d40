import json
from dataclasses import replace

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.joint import conventions, joint_laws, optimum
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report import law_sections
from ehr_scaling.analysis.tables.run_table import from_rows
from ehr_scaling.analysis.words import Verdict

FEW = Options(draws=100)
HEAD = 2000  # tokens of the vocabulary


def study(noise=0.002, drop=(), seed=0):
    """Runs whose loss is a law of body and head together, on budgets of C = 6 (body + head) D; half of the small models
    is head."""
    rng, rows = np.random.default_rng(seed), []
    for C in np.geomspace(1e13, 1e15, 5):
        for N in simulated.optimum(C) * 2.0 ** np.arange(-3, 4):
            width = max(np.roots([48, 0, HEAD, -N]), key=lambda root: -abs(root.imag)).real
            for s in range(2):
                loss = simulated.loss(N, C / 6 / N) * np.exp(noise * rng.standard_normal())
                row = {"N": 48 * width**3, "N_head": HEAD * width, "N_embedding": 0.5 * HEAD * width, "D": C / 6 / N,
                       "real_tokens": 0.9 * C / 6 / N, "C": C, "loss": loss, "seed": s}  # fmt: skip
                rows.append({k: v for k, v in row.items() if k not in drop})
    return from_rows(rows, source="x")


@pytest.fixture(scope="module")
def found():
    return {(c.N, c.C, c.D): c for c in conventions.fit(study(), FEW)}


def test_the_convention_of_the_truth_gives_the_exponent_of_the_truth(found):
    true = found["body + head", "6ND", "positions"]
    assert true.joint["a"].value == pytest.approx(simulated.EXPONENT, abs=0.015)
    low, high = true.joint["a"].interval
    assert low < simulated.EXPONENT < high
    assert true.isoflop["a"].value == pytest.approx(simulated.EXPONENT, abs=0.02)
    assert true.joint["b"].value == pytest.approx(1 - true.joint["a"].value)
    assert {v.word for v in true.verdicts.values()} == {"supported"}


def test_leaving_out_the_head_raises_the_exponent_beyond_its_interval(found):
    """Small models lose most of their parameters, so that the best body grows faster (Pearce & Song 2024)."""
    body, whole = (found[N, "6ND", "positions"].joint["a"] for N in ("body", "body + head"))
    assert body.interval[0] > whole.interval[1]
    text = conventions.disagreement(list(found.values()))
    assert "more apart than their intervals" in text and "N body" in text


def test_the_same_count_by_another_name_changes_nothing(found):
    """Here C is 6 (body + head) D, and a tenth of all positions is padding."""
    same = [found["body + head", C, D] for C in conventions.COMPUTE for D in conventions.TOKENS]
    for c in same:
        assert c.joint["a"].value == pytest.approx(same[0].joint["a"].value, abs=1e-4)
    for c in same:
        assert c.isoflop["a"].value == pytest.approx(same[0].isoflop["a"].value, abs=1e-9)
        assert c.isoflop["a"].interval == pytest.approx(same[0].isoflop["a"].interval, abs=1e-9)


def test_budgets_that_another_count_takes_apart_are_no_profiles(found):
    body = found["body", "6ND", "positions"]
    assert np.isnan(body.isoflop["a"].value) and body.verdicts["isoflop"].word == "unidentified"
    assert "no IsoFLOP profile" in body.verdicts["isoflop"].reason
    assert np.isfinite(found["body", "counted", "positions"].isoflop["a"].value)


def test_the_optimum_along_counted_compute_is_that_of_the_formula_where_c_is_6nd():
    """A factor that varies by a millionth is searched for on the line of sizes, a constant one is not."""
    table = simulated.table(noise=0.0)
    law = joint_laws.fit("chinchilla", table.N, table.D, table.loss, None, Options(draws=0))
    exact = optimum.exponents(law, law.theta[None], table.budgets, optimum.cost_of(table))
    varied = replace(table, C=table.C * (1 + 1e-5 * (table.N.min() == table.N)))
    searched = optimum.exponents(law, law.theta[None], varied.budgets, optimum.cost_of(varied))
    np.testing.assert_allclose(searched, exact, atol=1e-3)
    np.testing.assert_allclose(exact[0], [simulated.EXPONENT, 1 - simulated.EXPONENT], atol=1e-4)


def test_exponents_do_not_depend_on_units():
    table = study()
    factor = {"N": 1e-3, "N_head": 1e-3, "N_embedding": 1e-3, "D": 10.0, "real_tokens": 10.0, "C": 1e-2, "loss": 3.0}
    scaled = replace(table, **{name: getattr(table, name) * by for name, by in factor.items()})
    scaled = scaled.take(np.arange(len(table)))  # which counts the budgets anew
    options = replace(FEW, draws=20)
    for a, b in zip(conventions.fit(table, options), conventions.fit(scaled, options), strict=True):
        assert a.joint["a"].value == pytest.approx(b.joint["a"].value, abs=2e-3)
        assert a.isoflop["a"].value == pytest.approx(b.isoflop["a"].value, abs=1e-6, nan_ok=True)


def test_a_missing_column_is_not_known_and_says_which():
    found = conventions.fit(study(drop=("N_embedding", "real_tokens")), replace(FEW, draws=20))
    known = {(c.N, c.D) for c in found if np.isfinite(c.joint["a"].value)}
    assert known == {("body", "positions"), ("body + head", "positions")}
    whole = next(c for c in found if c.N == "all" and c.D == "real tokens")
    assert whole.verdicts["joint"].reason == "not known: no N_embedding and real_tokens for every run"


@pytest.mark.parametrize("losses", [[3.0], [3.0, 2.9], [3.0] * 6], ids=["one run", "two runs", "all equal"])
def test_poor_tables_get_reasons(losses):
    found = conventions.fit(simulated.profile(losses), FEW)
    assert len(found) == 12 and all(v.word == "unidentified" and v.reason for c in found for v in c.verdicts.values())
    assert "not known" in conventions.disagreement(found)
    law_sections.counting(found)


def test_json_and_the_section(found):
    record = json.loads(json.dumps(conventions.to_json(list(found.values()))))
    assert len(record) == 12 and set(record[0]) == {"N", "C", "D", "isoflop", "joint"}
    assert set(record[0]["joint"]) == {"a", "b", "intervals", "word", "reason"}
    page = law_sections.counting(list(found.values()))
    assert page.count("<tr>") == 13 and "no IsoFLOP profile" in page


def test_conventions_whose_intervals_meet_do_not_differ():
    def one(N, a, half):
        exponent = {key: conventions.Exponent(a, (a - half, a + half)) for key in "ab"}
        word = {method: Verdict("supported", "") for method in conventions.METHODS}
        return conventions.Convention(N, "counted", "positions", exponent, exponent, word)

    meet, apart = ([one("body", 0.4, half), one("all", 0.6, half)] for half in (0.11, 0.09))
    assert "No two of the 2" in conventions.disagreement(meet)
    assert "more apart than their intervals" in conventions.disagreement(apart)
