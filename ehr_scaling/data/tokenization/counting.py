"""Statistics of the train split, shard by shard: they add up, exactly and in any order.

Patients of one shard are in no other, so numbers of distinct patients are exact as sums.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.artifacts import writing
from ehr_scaling.data import presets
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.events.columns import STATIC, Columns, read_columns
from ehr_scaling.data.presets import NO_PARENTS, Parents, Rules
from ehr_scaling.data.tokenization.quantiles import ValueCounts
from ehr_scaling.errors import UserError


class CodeCount(NamedTuple):
    timed: int  # events with a time
    static: int  # events without
    valued: int  # events with a time and a finite value
    patients: int


class Counts:
    """Statistics of some train patients: of each code, the patients of each token, the values of each scale."""

    def __init__(self) -> None:
        self.patients = 0
        self.codes: dict[str, CodeCount] = {}
        self.tokens: dict[str, int] = {}  # token of a path, or of an ancestor → patients
        self.scales: dict[str, int] = {}  # scale → its number in values
        self.values = ValueCounts()

    def merge(self, other: "Counts") -> None:
        """Add the statistics of other patients."""
        self.patients += other.patients
        for code, more in other.codes.items():
            mine = self.codes.get(code)
            self.codes[code] = CodeCount(*(a + b for a, b in zip(mine, more, strict=True))) if mine else more
        for token, n in other.tokens.items():
            self.tokens[token] = self.tokens.get(token, 0) + n
        numbers = [self.scales.setdefault(scale, len(self.scales)) for scale in other.scales]
        self.values.absorb(other.values, np.array(numbers, np.int64))

    def save(self, path: Path) -> None:
        """Write a .npz file (arrays only: nothing in it is executed when it is read)."""
        self.values.merge()
        numbers = np.array(list(self.codes.values()), np.int64).reshape(-1, 4)
        write_arrays(
            path,
            {"codes": list(self.codes), "tokens": list(self.tokens), "scales": list(self.scales)},
            patients=np.array(self.patients),
            numbers=numbers,
            token_patients=np.array(list(self.tokens.values()), np.int64),
            keys=self.values.keys,
            counts=self.values.counts,
            levels=self.values.levels,
        )

    @classmethod
    def load(cls, path: Path) -> "Counts":
        names, arrays = read_arrays(path, ("codes", "tokens", "scales"))
        counts = cls()
        counts.patients = int(arrays["patients"])
        counts.codes = {code: CodeCount(*row) for code, row in zip(names[0], arrays["numbers"].tolist(), strict=True)}
        counts.tokens = dict(zip(names[1], arrays["token_patients"].tolist(), strict=True))
        counts.scales = {scale: i for i, scale in enumerate(names[2])}
        counts.values.keys, counts.values.counts = arrays["keys"], arrays["counts"]
        counts.values.levels = arrays["levels"]
        return counts


def merge(counts: Iterable[Counts]) -> Counts:
    """The sum of the statistics of shards, one of them in memory at a time."""
    total = Counts()
    for part in counts:
        total.merge(part)
    total.values.merge()
    return total


def count(path: Path, settings: Mapping[str, Any], maps: CodeMaps, parents: Parents = NO_PARENTS) -> Counts:
    """Statistics of one parquet file of events. Raises UserError as `read_columns` does."""
    rules, counts, number = presets.rules(settings, maps), Counts(), None
    for part in read_columns(path):
        if number is None:
            names, number = part.names, _Numbers(part.names, rules, parents, counts)
        _count(part, number, counts)
    if number is not None:
        rows = zip(names, number.codes.tolist(), strict=True)
        counts.codes = {name: CodeCount(*row) for name, row in rows if row[0] or row[1]}
        tokens = zip(number.tokens, number.token_patients.tolist(), strict=True)
        counts.tokens = {token: n for token, n in tokens if n}
    counts.values.merge()
    return counts


class _Numbers:
    """Sums of one file by the number of the code and of the token, and what each code is."""

    def __init__(self, names: list[str], rules: Rules, parents: Parents, counts: Counts) -> None:
        code_rules = [rules(code) for code in names]
        self.needs_value = np.array([rule.needs_value for rule in code_rules], bool)
        self.scale = np.array(
            [counts.scales.setdefault(r.scale, len(counts.scales)) if r.scale else -1 for r in code_rules], np.int64
        )
        tokens: dict[str, int] = {}
        self.start, flat = np.zeros(len(names) + 1, np.int64), []
        for i, (code, rule) in enumerate(zip(names, code_rules, strict=True)):
            above = rules.ancestors(code, parents) if parents else ()
            code_tokens = {token for paths in (rule.paths, *above) for path in paths for token in path}
            flat += [tokens.setdefault(token, len(tokens)) for token in sorted(code_tokens)]
            self.start[i + 1] = len(flat)
        self.flat = np.array(flat, np.int64)
        self.tokens = list(tokens)
        self.codes = np.zeros((len(names), 4), np.int64)
        self.token_patients = np.zeros(len(tokens), np.int64)


def _count(part: Columns, number: _Numbers, counts: Counts) -> None:
    n = len(part.names)
    patient = np.cumsum(np.concatenate([[True], part.subjects[1:] != part.subjects[:-1]])) - 1
    static, finite = part.times == STATIC, np.isfinite(part.values)
    counts.patients += int(patient[-1]) + 1
    # One histogram for all: 0 timed, 1 static, 2 timed with a value
    kind = np.where(static, 1, np.where(finite, 2, 0))
    histogram = np.bincount(part.codes * np.int64(3) + kind, minlength=3 * n).reshape(n, 3)
    number.codes[:, 0] += histogram[:, 0] + histogram[:, 2]
    number.codes[:, 1] += histogram[:, 1]
    number.codes[:, 2] += histogram[:, 2]
    rows = np.flatnonzero(finite & (number.scale[part.codes] >= 0))
    counts.values.add(number.scale[part.codes[rows]], part.values[rows])
    pairs = patient * np.int64(n) + part.codes
    if number.needs_value.any():
        pairs = pairs[finite | ~number.needs_value[part.codes]]
    pairs = distinct(pairs)
    codes, patients = pairs % n, pairs // n
    number.codes[:, 3] += np.bincount(codes, minlength=n)
    width = np.diff(number.start)[codes]
    at = np.repeat(number.start[codes] - np.cumsum(width) + width, width) + np.arange(int(width.sum()))
    size = max(len(number.tokens), 1)
    tokens = distinct(np.repeat(patients, width) * size + number.flat[at])
    number.token_patients += np.bincount(tokens % size, minlength=len(number.tokens))


def distinct(keys: np.ndarray) -> np.ndarray:
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]


def write_arrays(path: Path, names: Mapping[str, list[str]], **arrays: np.ndarray) -> None:
    """Write a .npz file of arrays and lists of strings; nothing in it is executed when it is read."""
    for name, texts in names.items():
        data = [text.encode() for text in texts]
        arrays[f"{name}_text"] = np.frombuffer(b"".join(data), np.uint8)
        arrays[f"{name}_end"] = np.cumsum([len(text) for text in data], dtype=np.int64)
    with writing(path) as partial:
        np.savez(partial, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path, names: Sequence[str]) -> tuple[list[list[str]], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        texts = []
        for name in names:
            data, ends = arrays[f"{name}_text"].tobytes(), arrays[f"{name}_end"].tolist()
            texts.append([data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)])
    except Exception as e:  # zipfile's, numpy's and the codec's errors share no base class
        raise UserError(f"{path} is missing or damaged ({type(e).__name__}): delete it and run again") from None
    return texts, arrays
