"""Latent lives of generated patients: who they are, and the course of their hospital stays. See `synthetic`.

Tables are dicts of columns: `people` one row a patient, `stays` one row a hospital stay, `rounds` one row a visit
within a stay. Times are int64 minutes since 1970. Severity 0 is an ordinary patient of a ward, 2 a dying one.
"""

import numpy as np

from ehr_scaling.data.sources.synthetic import tables as hospital

Table = dict[str, np.ndarray]

DAY = 1440  # minutes
MAX_STAYS, MAX_ROUNDS, MAX_RECORD_ROUNDS = 14, 40, 90  # the last bounds a record to about 3,000 tokens
# Of the open demo of MIMIC-IV: days in hospital and days from discharge to the next admission, lognormal
STAY_LOG, STAY_SD, GAP_LOG, GAP_SD = 1.457, 1.096, 4.202, 2.059
MAX_STAY, MAX_GAP = 90.0, 1_500.0


def choose(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """One column index for each row (n, k), with probability in proportion to its weights."""
    edges = np.cumsum(weights, axis=1)
    return (rng.random((len(weights), 1)) * edges[:, -1:] >= edges[:, :-1]).sum(axis=1)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def people(rng: np.random.Generator, n: int) -> Table:
    """n patients as they are when their record begins."""
    elderly = rng.random(n) < 0.75
    age = np.clip(np.where(elderly, rng.normal(66, 14, n), rng.normal(38, 13, n)), 18, 97)
    kind = choose(rng, np.tile(hospital.zipf[: hospital.ARCHETYPES], (n, 1)))
    tendency = np.exp(hospital.affinity[kind] + hospital.age_slope * ((age - 60) / 18)[:, None])
    has = hospital.chronic & (rng.random(tendency.shape) < 1 - np.exp(-0.75 * hospital.zipf * tendency))
    over_65 = (age >= 65)[:, None]
    # The century of MIMIC's shifted dates, which no record comes from
    first = ((130 + 60 * rng.random(n)) * 365.25 * DAY).astype(np.int64)
    birth = first - (age * 365.25 * DAY).astype(np.int64)
    return {
        "birth": birth - birth % DAY,
        "first": first,  # admission
        "GENDER": (rng.random(n) < 0.52).astype(int),
        "RACE": choose(rng, np.tile([0.66, 0.14, 0.07, 0.04, 0.05, 0.04], (n, 1))),
        "INSURANCE": choose(rng, np.where(over_65, [[0.85, 0.03, 0.12]], [[0.15, 0.25, 0.60]])),
        "MARITAL": choose(rng, np.where(over_65, [[0.5, 0.15, 0.27, 0.08]], [[0.42, 0.47, 0.02, 0.09]])),
        "tendency": tendency,  # (n, D) relative risk of each disease
        "has": has,  # (n, D) chronic diseases
        "frailty": 0.8 * rng.standard_normal(n) + 0.3 * (age - 60) / 18 + 0.08 * (has.sum(axis=1) - 4),
        "baseline": 0.15 * rng.standard_normal((n, hospital.J), np.float32),  # of each measurement
    }


def stays(rng: np.random.Generator, people: Table) -> tuple[Table, Table]:
    """All hospital stays of the patients, and their rounds in order of stay and time."""
    all_stays: list[Table] = []
    all_rounds: list[Table] = []
    n = len(people["first"])
    who, start, last = np.arange(n), people["first"], np.full(n, -1)  # last: principal disease of the stay before
    visited, before = np.zeros(n, int), 0
    for ordinal in range(MAX_STAYS):
        has = people["has"][who]
        frailty = people["frailty"][who] + 0.05 * ordinal
        row = np.arange(len(who))
        weight = hospital.zipf * people["tendency"][who] * np.where(hospital.chronic, np.where(has, 2.5, 0.05), 0.8)
        weight[row, last] *= np.where(last >= 0, 4.0, 1.0)  # one comes back with what one had
        disease = choose(rng, weight)
        other = np.where(has, np.sqrt(hospital.zipf), 1e-3) + 0.1 * weight
        other[row, disease] = 0
        stay = {
            "patient": who,
            "start": start,
            "disease": disease,
            "second": choose(rng, other),
            "type": choose(rng, hospital.admission_type[disease]),
        }
        outcome, rounds = _course(rng, start, hospital.gravity[disease], frailty)
        visited[who] += np.bincount(rounds["stay"], minlength=len(who))

        # After discharge: death, or another stay, both sooner the sicker, or the end of the record
        ill = outcome["severity"] + 0.4 * frailty
        alive = ~outcome["died"]
        dies = alive & (rng.random(len(who)) < logistic(ill - 4.3))
        later = outcome["end"] + (np.clip(np.exp(rng.normal(4.0, 1.3, len(who))), 0.5, 720) * DAY).astype(np.int64)
        again = alive & ~dies & (visited[who] < MAX_RECORD_ROUNDS)
        again &= rng.random(len(who)) < logistic(0.45 + 0.45 * ill)
        gap = np.clip(np.exp(rng.normal(GAP_LOG - 0.35 * ill, GAP_SD)), 0.5, MAX_GAP)

        all_stays.append({**stay, **outcome, "ill": ill, "death_after": np.where(dies, later, 0)})  # 0: none
        all_rounds.append({**rounds, "stay": rounds["stay"] + before})
        before += len(who)
        start, last = (outcome["end"] + (gap * DAY).astype(np.int64))[again], disease[again]
        who = who[again]
        if not len(who):
            break
    return (
        {key: np.concatenate([s[key] for s in all_stays]) for key in all_stays[0]},
        {key: np.concatenate([r[key] for r in all_rounds]) for key in all_rounds[0]},
    )


def _course(
    rng: np.random.Generator, start: np.ndarray, gravity: np.ndarray, frailty: np.ndarray
) -> tuple[Table, Table]:
    """n stays from admission to their end: how they end, and a round at each time that somebody looks in."""
    n = len(start)
    severity = 0.45 * frailty + 0.8 * gravity + 0.7 * rng.standard_normal(n)
    target = 0.75 * severity - 0.35 + 0.45 * rng.standard_normal(n)  # most get better, some do not
    # The shares of target and chance make the spread STAY_SD; 0.15 pays for stays that death cuts short
    log_days = STAY_LOG + 0.15 + STAY_SD * (0.4 * np.clip(target, -2, 3) + 0.9 * rng.standard_normal(n))
    end = start + (np.clip(np.exp(log_days), 0.3, MAX_STAY) * DAY).astype(np.int64)
    factors = rng.standard_normal((n, hospital.F), np.float32)
    now = start + rng.integers(25, 50, n)
    in_icu, died, ever_icu, dense_hours = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    rounds: list[Table] = []
    at = np.arange(n)  # the stays that go on
    for ordinal in range(MAX_ROUNDS):
        s, was = severity[at], in_icu[at]
        # A lower threshold to leave than to enter keeps one ICU stay one
        noise = rng.standard_normal(len(at))
        inside = np.where(was, s + 0.15 * noise > 0.7, s + 0.35 * noise > 1.4)
        in_icu[at], ever_icu[at] = inside, ever_icu[at] | inside
        hour = now[at] % DAY / 60
        rounds.append(
            {
                "stay": at,
                "time": now[at],
                "severity": s.astype(np.float32),
                "factors": factors[at],
                "first": np.full(len(at), ordinal == 0),
                "morning": (hour > 5) & (hour < 8),
                "inside": inside,
                "was_inside": was,
            }
        )
        gap = _until_next_round(rng, now[at], now[at] - start[at], inside & (dense_hours[at] < 120))
        dense_hours[at] += inside * gap / 60
        dies = rng.random(len(at)) < 1 - np.exp(-np.exp(3.0 * (s - 2.7)) * np.minimum(gap, 2 * DAY) / DAY)
        # 150 minutes leave room for this round's drugs, an hour for the next one
        death = now[at] + np.maximum(150, (gap * rng.random(len(at))).astype(np.int64))
        leaves = ~dies & ((now[at] + gap + 60 > end[at]) | (ordinal == MAX_ROUNDS - 1))
        end[at] = np.where(dies, death, np.where(leaves, np.clip(end[at], now[at] + 150, now[at] + gap + 60), end[at]))
        died[at] = dies
        at, gap = at[~dies & ~leaves], gap[~dies & ~leaves]
        if not len(at):
            break
        now[at] += gap
        days = np.minimum(gap / DAY, 3.0)
        severity[at] += (target[at] - severity[at]) * (1 - np.exp(-days / 2.5))
        severity[at] += 0.25 * np.sqrt(days) * rng.standard_normal(len(at))
        keep = np.exp(-days[:, None] / hospital.memory).astype(np.float32)
        factors[at] = keep * factors[at] + np.sqrt(1 - keep**2) * rng.standard_normal((len(at), hospital.F), np.float32)
    table = {key: np.concatenate([r[key] for r in rounds]) for key in rounds[0]}
    by = np.argsort(table["stay"], kind="stable")  # rounds were made in order of time
    return (
        {"end": end, "died": died, "ever_icu": ever_icu, "severity": severity},
        {key: column[by] for key, column in table.items()},
    )


def _until_next_round(rng: np.random.Generator, now: np.ndarray, stayed: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Minutes to the next round. Dense: every 4 hours on the first day, then every 8. Else at 6 and at 20 o'clock,
    only every other morning after three days, every fifth after ten: a long stay must not fill the record."""
    clock = now % DAY

    def wait(hour: float, every: float, least: float) -> np.ndarray:
        return least * 60 + (hour * 60 - clock - least * 60) % (every * 60)

    early = np.minimum(wait(6, 24, 5), wait(20, 24, 5))
    ward = np.where(stayed < 3 * DAY, early, np.where(stayed < 10 * DAY, wait(6, 24, 30), wait(6, 24, 100)))
    icu = np.where(stayed < DAY, wait(2, 4, 2.75), wait(6, 8, 5))
    return (np.where(dense, icu, ward) + rng.integers(-12, 13, len(now))).astype(np.int64)
