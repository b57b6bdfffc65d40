"""How much of the records of other patients a vocabulary knows."""

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.data import presets
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.events.columns import STATIC, read_columns
from ehr_scaling.data.presets import NO_PARENTS, Parents
from ehr_scaling.data.tokenization.tokenizer import CodeTable, code_table, is_event, slot_family
from ehr_scaling.data.vocabulary import Vocabulary, family

FALLEN_BACK, UNKNOWN = "fallen_back", "unknown"
FEW = 10  # events of a family that are told by themselves; fewer are among the others
OTHERS = "other families"
Counts = dict[str, list[int]]  # of each family: events, of them those that fell back, and those that are unknown


def count(path: Path, vocabulary: Vocabulary, maps: CodeMaps, parents: Parents = NO_PARENTS) -> Counts:
    """What becomes of the events of held-out patients, by the family of their code.

    An event is known where each token of its code is in the vocabulary. It *fell back* where a part of it became what
    is above it (the class of a drug, the head of a code); it is *unknown* where nothing but its family, FAMILY//UNK or
    UNK is left of it, or no token at all. Static facts count as events. What the rules leave out of any patient's
    timeline does not count, nor do births.

    Args: path, one parquet file of events; as for tokenizer.tokenize.
    Returns: families, `OTHERS` for those of neither the vocabulary nor our own sources: such a name may say something
      about a patient.
    """
    out: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(3, np.int64))
    table: CodeTable | None = None
    for part in read_columns(path):
        names = part.names
        if table is None:
            table = code_table(names, vocabulary, maps, parents, train=False)
            kinds = _kinds(names, table, vocabulary, maps)
        timed = part.times != STATIC
        enough = np.isfinite(part.values) | ~table.needs_value[part.codes]
        for column, rows in enumerate((timed & enough, ~timed & enough)):
            numbers = np.bincount(part.codes[rows], minlength=len(names))
            for code in np.flatnonzero((numbers > 0) & (kinds[:, column] >= 0)):
                kind = kinds[code, column]
                out[names[code]] += np.array([1, kind == 1, kind == 2]) * numbers[code]
    known = {family(token) for token in vocabulary.tokens} | presets.FAMILIES
    return _by_family(((family(name) if family(name) in known else OTHERS), n.tolist()) for name, n in out.items())


def _by_family(pairs: Iterable[tuple[str, list[int]]]) -> Counts:
    out: Counts = {}
    for name, numbers in pairs:
        out[name] = [a + b for a, b in zip(out.get(name, [0, 0, 0]), numbers, strict=True)]
    return out


def _kinds(names: list[str], table: CodeTable, vocabulary: Vocabulary, maps: CodeMaps) -> np.ndarray:
    """Of each code with a time, and without: 0 known, 1 fell back, 2 unknown, -1 does not count. int64 (codes, 2)"""
    settings = vocabulary.settings
    rules = presets.rules(settings, maps)
    empty = {*vocabulary.unknown_ids.tolist(), *(i for i, t in enumerate(vocabulary.tokens) if t == family(t))}
    slots = set(vocabulary.context_slots)
    out = np.full((len(names), 2), -1)
    for i, code in enumerate(names):
        rule = rules(code)
        slot = slot_family(rule, code)
        if table.birth[i] or not (rule.paths or rule.scale):
            continue
        # A value in the prefix is told by bins, or by the code's own token
        token = rule.paths[0][0] if rule.paths else slot
        told = rule.scale in vocabulary.quantiles or (token != slot and token in vocabulary.index)
        in_prefix = 0 if slot in slots and told else 2
        out[i, 1] = in_prefix
        if not is_event(rule, code, settings):
            out[i, 0] = in_prefix
        elif not table.makes[i]:
            out[i, 0] = 2
        elif table.fallback[i]:
            first = table.path_start[i]
            ids = table.path[first : first + table.path_length[i]].tolist()
            out[i, 0] = 2 if set(ids) <= empty else 1
        else:
            out[i, 0] = 0
    return out


def shares(parts: Iterable[Counts]) -> dict[str, Any]:
    """What is told of the counts of some files.

    Returns: events; known, fallen_back and unknown, shares of them; families, the same three of each that has at least
      FEW events, the most frequent first, OTHERS last.
    """
    summed = _by_family(pair for part in parts for pair in part.items())
    told = _by_family((name if n[0] >= FEW else OTHERS, n) for name, n in summed.items())
    order = sorted(told, key=lambda name: (name == OTHERS, -told[name][0], name))
    total = np.sum([[0, 0, 0], *told.values()], axis=0).tolist()
    families = {name: _shares(told[name]) for name in order if told[name][0] >= FEW}
    return {"events": total[0], **_shares(total), "families": families}


def _shares(numbers: list[int]) -> dict[str, float]:
    n, fallen_back, unknown = numbers
    of = max(n, 1)
    return {"known": (n - fallen_back - unknown) / of, FALLEN_BACK: fallen_back / of, UNKNOWN: unknown / of}


def told(known: Mapping[str, Any], most: int = 8) -> list[str]:
    """Lines for people: all events, and the families of which most is unknown. Args: known, as `shares` returns it."""

    def line(name: str, of: Mapping[str, Any]) -> str:
        return f"{name}: {of[FALLEN_BACK]:.1%} fell back, {of[UNKNOWN]:.1%} unknown"

    families = [(name, of) for name, of in known["families"].items() if of["known"] < 1]
    families.sort(key=lambda pair: (-pair[1][UNKNOWN], -pair[1][FALLEN_BACK]))
    whole = line(f"{known['events']:,} events in the model's vocabulary", known)
    return [whole, *(f"  {line(name, of)}" for name, of in families[:most])]
