"""Who a sheet of questions asks about, and when each of its codes came in their records: `outcomes/<sheet>/`.

Shapes: n stays, Q codes, V tokens.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.tokenization.tokenizer import Timelines
from ehr_scaling.data.vocabulary import DAY
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking import cohort, questions, stays
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks.sheets import FILE, Code, Resolved, Sheet, resolve
from ehr_scaling.outcomes.asking.tasks.tasks import Task, Unanswerable
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, POSITIVE

VERSION = 1  # of who is asked what: raise it with every change to that
STAYS = "stays.npz"
SHORT = 0  # a label: without the code so far, and not followed for long enough
NEVER = np.iinfo(np.int64).max


class Known(NamedTuple):
    """What the records say of n stays and Q codes. Times are µs after the prediction; NEVER: not at all."""

    stays: Stays
    came: np.ndarray  # int64 (n, Q), of the code's first token, where none that ends the watch is before it
    before: np.ndarray  # bool (n, Q): the patient had the code at the prediction or before it
    ended: np.ndarray  # int64 (n,), of the first token that ends the watch, which may be that of the record's end
    ending: np.ndarray  # int8 (n,), NEGATIVE or OPEN: what that token means
    by_end: np.ndarray  # bool (n,): it is the record's end
    followed: np.ndarray  # int64 (n,), of the record's end

    def labels(self, horizon: float, follow_up: float) -> np.ndarray:
        """What came true within `horizon` days: POSITIVE, NEGATIVE, OPEN or SHORT, int8 (n, Q); as `cohort` has it of
        a task whose horizon is negative.

        Args: follow_up, days, see `sheets.Sheet`.
        """
        until, never = round(horizon * DAY), self.came == NEVER
        late = np.where(never, self.ended[:, None], self.came) > until
        kind = np.where(late, NEGATIVE, np.where(never, self.ending[:, None], POSITIVE))
        unsaid = (kind == NEGATIVE) & (late | (never & self.by_end[:, None]))
        short = unsaid & (self.followed < round(follow_up * DAY))[:, None]
        return np.where(short, SHORT, kind).astype(np.int8)


def prepare(
    workdir: Path,
    sheet: Sheet,
    *,
    context: int,
    copies: int,
    new_tokens: int,
    room: int = 0,
    max_samples: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> dict[str, Any]:
    """Fix who is asked and how, and read what came true, in `outcomes/<sheet>/`: the same for every model.

    Args: context, T of the models to be asked; copies, simulated futures of a stay; new_tokens, of the longest; room,
      as in `questions.prepare`; max_samples, stays drawn at random, none: all; seed, of that and of the simulation.
    Returns: the record, see `artifacts.build`; its summary has stays, codes, lacking and left_out.
    Raises: UserError as `cohort.find` does, for senseless options, and when the sheet was prepared with other ones;
      Unanswerable where nobody can be asked, or the vocabulary has none of the codes.
    """
    for flag, value, least in (("copies", copies, 1), ("new_tokens", new_tokens, 1), ("samples", max_samples, 2)):
        if value is not None and value < least:
            raise UserError(f"--config.outcome.{flag}={value}: take {least} or more")
    if not 0 <= room < context:
        raise UserError(f"--config.outcome.room={room}: take a number from 1 to {context - 1}, or 0")
    inputs = {
        "timelines": artifacts.record(Layout(workdir).timelines)["fingerprint"],
        "sheet": asdict(sheet) | {"who": asdict(sheet.who) | questions.told_of_labels(sheet.who)},
        "split": split,
        "context": context,
        "copies": copies,
        "new_tokens": new_tokens,
        "room": room,
        "max_samples": max_samples,
        "seed": seed,
    }

    def make(folder: Path) -> dict[str, Any]:
        vocabulary, generated = timelines.vocabulary(workdir), inspection.of_generated(workdir)
        resolved = resolve(sheet, vocabulary)
        group = cohort.find(workdir, split, [sheet.who])
        every = group.of(0)
        if not len(every.times):
            raise Unanswerable(f"nobody can be asked the sheet {sheet.name}: {group.describe(0, generated)}")
        nobody_said = every._replace(labels=np.full(len(every.times), np.nan, np.float32))
        sampled = stays.subsample(nobody_said, max_samples, None, seed)
        known = read_records(workdir, split, sampled, resolved)
        fields = known._asdict() | known.stays._asdict()
        np.savez(folder / STAYS, **{name: value for name, value in fields.items() if name != "stays"})
        facts: dict[str, Any] = {
            "stays": len(sampled.times),
            "available_stays": len(every.times),
            "codes": len(resolved.codes),
            "lacking": resolved.lacking,
            "left_out": group.left_out[0],
            "vocabulary": len(vocabulary.tokens),
        }
        about = {
            "sheet": sheet.name,
            "kind": "sheet",
            "description": _describe(
                sheet, resolved, group.describe(0, generated), len(sampled.times), len(every.times), generated
            ),
            "horizons": sheet.horizons,
            "codes": [{"code": code.name, "names": code.names} for code in resolved.codes],
            "lacking": resolved.lacking,
            "generated": generated,
        }
        artifacts.write_sealed(folder / FILE, about)
        return facts

    folder = Layout(workdir).task(sheet.name)
    # Of one that another machine is just handing over to a bucket the record comes last: `artifacts.build` waits
    if folder.exists() and not (folder / artifacts.RECORD).exists() and not storage.in_bucket(folder):
        raise UserError(f"{folder} is not complete: delete it and run again")
    return artifacts.build(folder, inputs, make, version=VERSION)


def _describe(sheet: Sheet, resolved: Resolved, told: str, sampled: int, there: int, generated: bool) -> str:
    days = ", ".join(f"{days:g}" for days in sheet.horizons)
    lead = sheet.who.description.strip()
    text = f"{lead} " if lead else ""
    text += f"{len(resolved.codes)} codes, each within {days} days. {told[0].upper()}{told[1:]}. "
    text += f"{disclosure.words(sampled, generated)} of them, drawn at random, are." if sampled < there else "All are."
    if resolved.lacking:
        text += f" The vocabulary lacks {', '.join(resolved.lacking)}."
    return text


def read_records(folder: Path, split: str | None, sampled: Stays, resolved: Resolved) -> Known:
    """When each code came to each stay, by the timelines of a split in `folder`. Args: sampled, n of its stays."""
    n, count = len(sampled.times), len(resolved.codes)
    known = Known(
        sampled,
        came=np.full((n, count), NEVER),
        before=np.zeros((n, count), bool),
        ended=np.zeros(n, np.int64),
        ending=np.zeros(n, np.int8),
        by_end=np.zeros(n, bool),
        followed=np.zeros(n, np.int64),
    )
    for part, rows, owners in stays.by_part(folder, split, sampled):
        _read_part(part, rows, owners, known, resolved)
    return known


def _read_part(part: Timelines, rows: np.ndarray, owners: np.ndarray, known: Known, resolved: Resolved) -> None:
    """Fills in what one file says. Args: rows, stays that are in it; owners, their patients in it."""
    begins, ends = part.offsets[owners], part.offsets[owners + 1] - 1
    until, times = begins + known.stays.known[rows], known.stays.times[rows]
    stop = np.minimum(cohort.next_row(np.flatnonzero(resolved.ends[part.tokens]), until), ends)
    known.ended[rows] = part.times[stop] - times
    known.ending[rows] = resolved.ends[part.tokens[stop]]
    known.by_end[rows] = stop == ends
    known.followed[rows] = part.times[ends] - times
    for q, its_rows in enumerate(_rows_of_codes(part.tokens, resolved.sets)):
        came = cohort.next_row(its_rows, until)
        # A token that is the code's and also ends the watch is the code's
        in_time = np.flatnonzero(came <= stop)
        known.came[rows[in_time], q] = part.times[came[in_time]] - times[in_time]
        known.before[rows, q] = cohort.next_row(its_rows, begins) < until


def _rows_of_codes(tokens: np.ndarray, sets: np.ndarray) -> list[np.ndarray]:
    """Rows of each code's tokens, ascending, int64. The tokens are looked through once, not for each of many codes."""
    of_any_code = np.flatnonzero(np.asarray(sets.any(axis=0))[tokens])
    order = np.argsort(tokens[of_any_code], kind="stable")
    by_token = of_any_code[order]
    bounds = np.searchsorted(tokens[by_token], np.arange(sets.shape[1] + 1))
    nothing = np.zeros(0, np.int64)
    return [
        np.sort(np.concatenate([nothing, *(by_token[bounds[t] : bounds[t + 1]] for t in np.flatnonzero(of_code))]))
        for of_code in sets
    ]


def load(folder: Path) -> Known:
    """What `prepare` read. Raises UserError where it is missing or damaged."""
    artifacts.verify(folder, [STAYS])
    with np.load(folder / STAYS, allow_pickle=False) as file:
        arrays = {name: file[name] for name in Known._fields if name != "stays"}
        return Known(Stays(*(file[name] for name in Stays._fields)), **arrays)


def sheet_of(record: dict[str, Any]) -> Sheet:
    """The sheet that a prepared folder's record is about."""
    given = dict(record["inputs"]["sheet"])
    who: dict[str, Any]
    rest: dict[str, Any]
    who, rest = (
        {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        for fields in (given.pop("who"), {k: v for k, v in given.items() if k not in ("who", "codes")})
    )
    codes = tuple(Code(name, tuple(names)) for name, names in given["codes"])
    return Sheet(who=Task(**who), codes=codes, **rest)
