"""No prompt and no feature on the MIMIC-IV demo holds a fact that was known after its prediction.

What was known when is worked out here from the tables, by a reader that shares nothing with the source.
"""

import duckdb
import numpy as np
import pytest

from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.data.timelines import timelines
from ehr_scaling.outcomes.asking import cohort
from ehr_scaling.outcomes.asking.tasks import task_tokens, tasks
from ehr_scaling.outcomes.judging import baselines

RAW, ED = "physionet/files/mimic-iv-demo/2.2", "physionet/files/mimic-iv-ed-demo/2.2"
BOUND = r"(?i)^\s*([<>]|LESS THAN|GREATER THAN)=?\s*[0-9]"
DOSE = "^(Delayed |Partial )?( *in Other|Administered|Applied|Started|Restarted|Removed Existing)"
# Family of tokens → (subject_id, when it was known) of every event, in SQL
KNOWN = {
    "LAB": f"""SELECT subject_id, greatest(charttime, coalesce(storetime, charttime)) FROM labevents
      WHERE valuenum IS NOT NULL OR regexp_matches(coalesce(value, ''), '{BOUND}')
      OR regexp_matches(coalesce(comments, ''), '{BOUND}')""",
    "PROCEDURE": "SELECT p.subject_id, dischtime FROM procedures_icd p JOIN stays USING (hadm_id)",
    "HCPCS": "SELECT h.subject_id, dischtime FROM hcpcsevents h JOIN stays USING (hadm_id)",
    "DIAGNOSIS": """SELECT d.subject_id, dischtime FROM diagnoses_icd d JOIN stays USING (hadm_id)
      UNION ALL SELECT d.subject_id, outtime FROM (SELECT DISTINCT subject_id, stay_id, icd_code, icd_version FROM
      diagnosis) d JOIN edstays USING (stay_id)""",
    "DRG": "SELECT d.subject_id, dischtime FROM drgcodes d JOIN stays USING (hadm_id) WHERE drg_type = 'HCFA'",
    "BMI": """SELECT subject_id, chartdate + INTERVAL 1 DAY - INTERVAL 1 SECOND FROM omr
      WHERE result_name LIKE 'BMI%' AND try_cast(result_value AS DOUBLE) BETWEEN 10 AND 100""",
    "ACUITY": """SELECT t.subject_id, least(e.outtime, coalesce(min(greatest(v.charttime, e.intime)), e.outtime))
      FROM triage t JOIN edstays e USING (stay_id) LEFT JOIN vitalsign v USING (stay_id) WHERE acuity IS NOT NULL
      GROUP BY t.stay_id, t.subject_id, e.outtime""",
    "MEDICATION": f"""SELECT subject_id, greatest(charttime, storetime) FROM emar WHERE medication IS NOT NULL
      AND regexp_matches(event_txt, '{DOSE}')
      UNION ALL SELECT DISTINCT ON (stay_id, charttime, med_rn, name) subject_id, charttime FROM pyxis""",
}
FIRST = {  # the token that an event of the family begins with
    "LAB": lambda token: token.startswith("LAB//"),
    "PROCEDURE": lambda token: token.startswith(("ICD9PCS//", "ICD10PCS//")) and "SFX" not in token,
    "HCPCS": lambda token: token.startswith("HCPCS//"),
    "DIAGNOSIS": lambda token: (
        token.startswith(("ICD9CM//", "ICD10CM//")) and not {"SFX", "3-6"} & {*token.split("//")}
    ),
    "DRG": lambda token: token.startswith("DRG//"),
    "BMI": lambda token: token == "BMI",
    "ACUITY": lambda token: token == "ACUITY",
    "MEDICATION": lambda token: token.startswith("MED//"),
}
TOKENS = {"PROCEDURE": 7}  # of an ICD-10-PCS code, one a character


@pytest.fixture(scope="module")
def known(real_data):
    """Per family: subjects and µs at which their facts were known, both sorted by subject and time."""
    con = duckdb.connect()
    for root in (RAW, ED):
        for path in (real_data / root).glob("*/*.csv.gz"):
            con.execute(f"CREATE VIEW {path.name.split('.')[0]} AS SELECT * FROM read_csv('{path}', sample_size=-1)")
    # A stay of which the death is told after the discharge, which is then a bare date, ends at the death.
    con.execute("""CREATE VIEW stays AS
      SELECT * REPLACE (greatest(dischtime, coalesce(deathtime, dischtime)) AS dischtime) FROM admissions""")
    found = {}
    for family, query in KNOWN.items():
        rows = con.execute(f"SELECT s, epoch_us(t::TIMESTAMP) FROM ({query}) AS q(s, t) ORDER BY 1, 2").fetchnumpy()
        subject, time = (np.asarray(column, np.int64) for column in rows.values())
        found[family] = subject, time
    return found


def prepared(real_data, folder, times):
    data = base.get_config().data
    data.source, data.raw, data.ed, data.splits = "mimic-iv", str(real_data / RAW), str(real_data / ED), (1.0, 0.0, 0.0)
    data.tokens.min_patients, data.tokens.min_count, data.times = 0, 1, times
    data.tokens.value_tokens = "separate"  # where a token stands does not depend on it, and codes are counted here
    pipeline.prepare(data, folder, workers=1, until="timelines")
    return folder


def counts(folder, asked):
    """Of a family, its events in each stay's prompt, and in its features: float (n,) each."""
    names = timelines.vocabulary(folder).tokens
    (part,) = timelines.batches(folder, "train")
    begins = part.offsets[np.searchsorted(part.subject_ids, asked.subject_ids)]
    block = baselines.features(folder, "train", asked)[:, : len(names)]
    block.data = np.expm1(block.data)

    def of(family):
        weight = np.array([float(FIRST[family](name)) for name in names])
        weight[[name.startswith("ICD10PCS//") for name in names]] /= TOKENS.get(family, 1)
        of_token = np.append(0.0, np.cumsum(weight[part.tokens]))
        return of_token[begins + asked.known] - of_token[begins], block @ weight

    return of


def by_then(known, asked):
    subject, time = known
    key = lambda s, t: s * (1 << 40) + t // 1_000_000  # noqa: E731
    facts = key(subject, time)
    low = np.searchsorted(facts, key(asked.subject_ids, np.full(len(asked.times), 0)))
    return np.searchsorted(facts, key(asked.subject_ids, asked.times), side="right") - low


def too_much(folder, known):
    """Prompts or features that hold more of a family than was known: {(task, family): stays}."""
    found, asked_of = {}, 0
    # Its records stop at a fixed hour; those of MIMIC do not.
    every = [task for name, task in tasks.load().items() if name != "challenge_2012_death"]
    for group in task_tokens.groups(every):
        try:
            asked_group = cohort.find(folder, "train", group)
        except tasks.Unanswerable:
            continue
        for k, task in enumerate(group):
            asked = asked_group.of(k)
            asked_of += len(asked.times) > 0
            of = counts(folder, asked)
            for family, facts in known.items():
                held, features = of(family)
                more = np.maximum(held, features) > by_then(facts, asked) + 1e-3
                if more.any():
                    found[task.name, family] = int(more.sum())
                if task.by_time and family != "MEDICATION":  # names that are told for the same drug at once are one
                    assert np.abs(held - features).max() < 1e-2
    assert asked_of > 20
    return found


def test_no_prompt_and_no_feature_holds_the_future(real_data, known, tmp_path):
    assert too_much(prepared(real_data, tmp_path, "known"), known) == {}


def test_all_that_was_known_is_there(real_data, known, tmp_path):
    """The rule is not kept by leaving things out: a prompt that ends at a time holds all of these families by then."""
    folder = prepared(real_data, tmp_path, "known")
    asked = cohort.find(folder, "train", [tasks.load()["in_hospital_death_24h"]]).of(0)
    of = counts(folder, asked)
    for family in ("LAB", "PROCEDURE", "DIAGNOSIS", "DRG", "HCPCS", "ACUITY", "BMI"):
        held, _ = of(family)
        np.testing.assert_allclose(held, by_then(known[family], asked), atol=1e-3, err_msg=family)


@pytest.mark.nightly
def test_by_the_old_order_they_did(real_data, known, tmp_path):
    """What the rule mends, so that the test above can fail: prompts of the order in which things happened."""
    found = too_much(prepared(real_data, tmp_path, "happened"), known)
    assert found["in_hospital_death_24h", "PROCEDURE"] > 60
    assert found["in_hospital_death_24h", "LAB"] > 40
    assert found["in_hospital_death_48h", "PROCEDURE"] > 30
    assert found["icu_mortality_24h", "PROCEDURE"] > 30
    assert found["hospital_mortality", "LAB"] > 80
