"""What few patients have becomes something that more have: tokens their parent, bins of values their neighbour.

while again:  # once, seldom twice
    bins = merge_bins(map(BinCounts.load, …))  # one count_bins(path, vocabulary, …) a shard of train
    vocabulary, again = collapse(vocabulary, bins)
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC, Columns, read_columns
from ehr_scaling.data.presets import NO_PARENTS, Parents
from ehr_scaling.data.tokenization.counting import distinct, read_arrays, write_arrays
from ehr_scaling.data.tokenization.tokenizer import CodeTable, code_table, tokenize_part
from ehr_scaling.data.vocabulary import UNK, UNKNOWN, Vocabulary, family
from ehr_scaling.errors import UserError


class BinCounts:
    """How many train patients have each token of a draft, and each run of neighbouring bins of each scale.

    gaps: of each patient with a value of a scale, the pairs of neighbouring bins among those its values lie in, with
    -1 before the first and `bins` after the last: {(scale, bin, next bin): patients}. A patient has no value in bins
    i to j exactly when one of its pairs encloses them, so the patients of any merged bin follow without counting anew.
    """

    def __init__(self, tokens: int) -> None:
        self.token_patients = np.zeros(tokens, np.int64)
        self.gaps: dict[tuple[str, int, int], int] = {}

    def merge(self, other: "BinCounts") -> None:
        self.token_patients += other.token_patients
        for key, n in other.gaps.items():
            self.gaps[key] = self.gaps.get(key, 0) + n

    def save(self, path: Path) -> None:
        scales = sorted({scale for scale, _, _ in self.gaps})
        at = {scale: i for i, scale in enumerate(scales)}
        rows = [(at[scale], a, b, n) for (scale, a, b), n in self.gaps.items()]
        gaps = np.array(rows, np.int64).reshape(-1, 4)
        write_arrays(path, {"scales": scales}, token_patients=self.token_patients, gaps=gaps)

    @classmethod
    def load(cls, path: Path) -> "BinCounts":
        (scales,), arrays = read_arrays(path, ("scales",))
        bins = cls(0)
        bins.token_patients = arrays["token_patients"]
        bins.gaps = {(scales[s], a, b): n for s, a, b, n in arrays["gaps"].tolist()}
        return bins


def merge_bins(bins: Iterable[BinCounts]) -> BinCounts:
    total: BinCounts | None = None
    for part in bins:
        if total is None:
            total = part
        else:
            total.merge(part)
    if total is None:
        raise UserError("no patient in the train split: check the source's files and --config.data.splits")
    return total


def count_bins(path: Path, draft: Vocabulary, maps: CodeMaps, parents: Parents = NO_PARENTS) -> BinCounts:
    """Patients of one parquet file of events by token and by bin, as the draft would tokenize them."""
    out, table, size = BinCounts(len(draft.tokens)), None, len(draft.tokens)
    for part in read_columns(path):
        if table is None:
            table = code_table(part.names, draft, maps, parents)
        timelines = tokenize_part(part, table, draft)[0]
        tokens = np.concatenate([timelines.tokens, timelines.context_tokens]).astype(np.int64)
        patients = np.arange(len(timelines.subject_ids))
        owner = np.concatenate(
            [np.repeat(patients, np.diff(x)) for x in (timelines.offsets, timelines.context_offsets)]
        )
        out.token_patients += np.bincount(distinct(owner * size + tokens) % size, minlength=size)
        _count_gaps(part, table, out)
    return out


def _count_gaps(part: Columns, table: CodeTable, out: BinCounts) -> None:
    patient = np.cumsum(np.concatenate([[True], part.subjects[1:] != part.subjects[:-1]])) - 1
    bins = table.bins(part.codes, part.values)
    used = (bins >= 0) & ((table.makes[part.codes] & (part.times != STATIC)) | (table.slot[part.codes] >= 0))
    rows = np.flatnonzero(used)
    if not len(rows):
        return
    width, scales = 1 << 8, np.int64(len(table.scales))
    keys = distinct((patient[rows] * scales + table.scale[part.codes[rows]]) * width + bins[rows])
    owner, low = keys // width, keys % width
    new = np.concatenate([[True], owner[1:] != owner[:-1]])
    last = np.concatenate([new[1:], [True]])
    # (scale, bin before or -1, bin): and after the last bin of a patient, one more to the end
    before = np.where(new, -1, np.concatenate([[0], low[:-1]]))
    ends = np.diff(table.break_start)[owner[last] % scales] + 1
    scale = np.concatenate([owner % scales, owner[last] % scales])
    pair = np.concatenate([(before + 1) * width + low, (low[last] + 1) * width + ends])
    unique_keys, n = np.unique(scale * (width * width) + pair, return_counts=True)
    for key, k in zip(unique_keys.tolist(), n.tolist(), strict=True):
        name = table.scales[key // (width * width)]
        entry = (name, key // width % width - 1, key % width)
        out.gaps[entry] = out.gaps.get(entry, 0) + k


def collapse(draft: Vocabulary, bins: BinCounts) -> tuple[Vocabulary, bool]:
    """The draft without tokens and bins that fewer than min_patients train patients have.

    Of a scale, the bin with the fewest patients is merged with the smaller of its neighbours until all have enough; a
    scale without two such bins makes no value tokens. Other tokens go, and what they stood for becomes its parent
    when it is tokenized again. Exempt are the special tokens, ages, SLOT//UNKNOWN and MEDS_DEATH.

    Returns: the vocabulary, and whether tokens went that others may have followed: then those may be fewer now, and
      bins are to be counted and collapsed again.
    """
    least = draft.settings["min_patients"]
    gaps: dict[str, dict[tuple[int, int], int]] = collections.defaultdict(dict)
    for (scale, a, b), n in bins.gaps.items():
        gaps[scale][a, b] = n
    merged = {scale: _merge_bins(breaks, gaps[scale], least) for scale, breaks in draft.quantiles.items()}
    slots = set(draft.context_slots)
    width: dict[str, int] = {}  # of the tokens CODE//Qk and SLOT//Qk, how many are left
    for scale, breaks in merged.items():
        for stem in {scale, family(scale)} & {scale, *slots}:
            width[stem] = max(width.get(stem, 0), len(breaks) + 1 if breaks else 0)
    exempt = {*draft.reserved, *(f"{slot}//{UNKNOWN}" for slot in slots), events.DEATH}
    keep, empty, again = [], [], False
    for i, token in enumerate(draft.tokens):
        stem, _, last = token.rpartition("//")
        if stem in width and last in draft.quantile_tokens:
            if int(last[1:]) <= width[stem]:
                keep.append(i)
        elif token in exempt or bins.token_patients[i] >= least:
            keep.append(i)
        elif not bins.token_patients[i] and token == f"{family(token)}//{UNK}":
            empty.append(i)
        else:
            again |= token != f"{family(token)}//{UNK}"
    # A FAMILY//UNK that train never needed tells of nobody, if the family is known by another token.
    families = {family(draft.tokens[i]) for i in keep}
    keep = sorted(keep + [i for i in empty if family(draft.tokens[i]) in families])
    collapsed = dataclasses.replace(
        draft,
        tokens=tuple(draft.tokens[i] for i in keep),
        counts=tuple(draft.counts[i] for i in keep),
        quantiles={scale: breaks for scale, breaks in merged.items() if breaks},
    )
    return collapsed, again


def _merge_bins(breaks: tuple[float, ...], gaps: Mapping[tuple[int, int], int], least: int) -> tuple[float, ...]:
    """The breaks that stay when bins of fewer than `least` patients are merged with a neighbour."""
    total = sum(n for (a, _), n in gaps.items() if a < 0)

    def patients(low: int, high: int) -> int:
        return total - sum(n for (a, b), n in gaps.items() if a < low and b > high)

    groups = [(k, k) for k in range(len(breaks) + 1)]
    while len(groups) > 1:
        sizes = [patients(*group) for group in groups]
        i = int(np.argmin(sizes))
        if sizes[i] >= least:
            break
        right = i == 0 or (i + 1 < len(groups) and sizes[i + 1] < sizes[i - 1])
        a = i if right else i - 1
        groups[a : a + 2] = [(groups[a][0], groups[a + 1][1])]
    return tuple(breaks[high] for _, high in groups[:-1])
