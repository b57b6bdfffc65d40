import json
from dataclasses import replace

import numpy as np
import pytest
import simulated

from ehr_scaling.analysis.isoflop import isoflop, power_laws
from ehr_scaling.analysis.joint import conventions, joint_laws, optimum
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.report.sections import law_sections
from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import from_rows

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


def fit(table, options):
    lines = power_laws.fit(isoflop.fit(table, options), options)
    alike = cells.average(table)
    law = joint_laws.fit("chinchilla", alike.N, alike.D, alike.loss, alike.clusters, options)
    return conventions.fit(table, options, {"chinchilla": law} if law else {}, lines)


@pytest.fixture(scope="module")
def whole():
    return fit(study(), FEW)


@pytest.fixture(scope="module")
def found(whole):
    return {(c.N, c.C, c.D): c for c in whole.each}


def test_the_convention_of_the_truth_gives_the_exponent_of_the_truth(found):
    true = found["body + head", "6ND", "positions"]
    assert true.joint.a == pytest.approx(simulated.EXPONENT, abs=0.015)
    assert true.isoflop.a == pytest.approx(simulated.EXPONENT, abs=0.02)
    assert true.joint.b == pytest.approx(1 - true.joint.a)
    assert true.joint.reason == true.isoflop.reason == ""


def test_leaving_out_the_head_raises_the_exponent_beyond_its_interval(whole, found):
    """Small models lose most of their parameters, so that the best body grows faster (Pearce & Song 2024)."""
    own, other = (found[N, "counted", "positions"].joint for N in ("body", "body + head"))
    assert whole.each[0].joint == own
    low, high = whole.intervals["joint"]
    assert other.a < low < own.a < high
    text = conventions.disagreement(whole)
    assert "by more than the noise of the runs" in text and "with N body, C counted" in text


def test_conventions_within_the_interval_do_not_disagree(whole):
    near = replace(whole, intervals={"joint": (0.0, 1.0), "isoflop": (0.0, 1.0)})
    assert conventions.disagreement(near).startswith("None of the 12 conventions")


def test_the_same_count_by_another_name_changes_nothing(found):
    """Here C is 6 (body + head) D, and a tenth of all positions is padding."""
    same = [found["body + head", C, D] for C in conventions.COMPUTE for D in conventions.TOKENS]
    for c in same:
        assert c.joint.a == pytest.approx(same[0].joint.a, abs=1e-4)
        assert c.isoflop.a == pytest.approx(same[0].isoflop.a, abs=1e-9)


def test_budgets_that_another_count_takes_apart_are_no_profiles(found):
    body = found["body", "6ND", "positions"].isoflop
    assert np.isnan(body.a) and "no IsoFLOP profile" in body.reason
    assert np.isfinite(found["body", "counted", "positions"].isoflop.a)


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
    for a, b in zip(fit(table, options).each, fit(scaled, options).each, strict=True):
        assert a.joint.a == pytest.approx(b.joint.a, abs=2e-3)
        assert a.isoflop.a == pytest.approx(b.isoflop.a, abs=1e-6, nan_ok=True)


def test_a_missing_column_is_not_known_and_says_which():
    found = fit(study(drop=("N_embedding", "real_tokens")), replace(FEW, draws=20)).each
    known = {(c.N, c.D) for c in found if np.isfinite(c.joint.a)}
    assert known == {("body", "positions"), ("body + head", "positions")}
    whole = next(c for c in found if c.N == "all" and c.D == "real tokens")
    assert whole.joint.reason == "not known: no N_embedding and real_tokens for every run"


@pytest.mark.parametrize("losses", [[3.0], [3.0, 2.9], [3.0] * 6], ids=["one run", "two runs", "all equal"])
def test_poor_tables_get_reasons(losses):
    found = fit(simulated.profile(losses), FEW)
    assert len(found.each) == 12 and all(c.joint.reason and c.isoflop.reason for c in found.each)
    assert "not known" in conventions.disagreement(found)
    law_sections.counting(found)


def test_json_and_the_section(whole):
    record = json.loads(json.dumps(conventions.to_json(whole)))
    assert len(record) == 12 and set(record[0]) == {"N", "C", "D", "isoflop", "joint"}
    assert set(record[0]["joint"]) == {"a", "b", "reason"}
    page = law_sections.counting(whole)
    assert page.count("<tr>") == 13 and "no IsoFLOP profile" in page
