"""Codes of a data set as tokens of a study: what predicates that name them mean in its vocabulary."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ehr_scaling import artifacts
from ehr_scaling.data import parquet, presets
from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import events
from ehr_scaling.data.presets import Rules
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes.asking.meds_dev.aces import Plain

_MAPPED = ("DIAGNOSIS", "PROCEDURE", "MEDICATION")  # families whose tokens depend on maps of codes


class Study(NamedTuple):
    """By what codes become tokens."""

    vocabulary: Vocabulary
    rules: Rules
    first: dict[str, str]  # of each code of its events, in our spelling, the first token; "": it has none
    dialect: str  # of the MEDS data set that it was made of


def of_study(workdir: Path) -> Study:
    """Raises: UserError where the study has no events any more, whose codes say what a pattern means."""
    folder = Layout(workdir).events
    if not (folder / events.CODES).is_file():
        raise UserError(
            f"{folder / events.CODES} is missing, by which predicates find their tokens: prepare the study again"
        )
    vocabulary = timelines.vocabulary(workdir)
    rules = presets.rules(vocabulary.settings, maps.load(None))
    codes = parquet.read(folder / events.CODES, columns=["code"])["code"].to_pylist()
    summary = artifacts.record(folder)["summary"] if (folder / artifacts.RECORD).is_file() else {}
    # Studies of MIMIC-IV's own tables have the codes that its dialects become
    dialect = summary.get("dialect", dialects.MIMIC_IV_MEDS_0_2)
    return Study(vocabulary, rules, {code: _first(rules, code) for code in codes}, dialect)


class Meaning(NamedTuple):
    """What a predicate means in a vocabulary."""

    tokens: tuple[str, ...]  # names, as lists of a `Task` hold them; an event is told by its first token
    wider: tuple[str, ...]  # those of them that stand for other codes of the study too


def meant(study: Study, plain: Plain) -> Meaning:
    """Raises: UserError for codes whose tokens depend on maps of codes that the study had."""
    ours = {code for code in study.first if _matches(study, plain, code)}
    ours |= {code for theirs in plain.codes for code in dialects.canonical(study.dialect, theirs) or ()}
    mapped = sorted(code for code in ours if code.partition("//")[0] in _MAPPED)
    if mapped and study.vocabulary.settings.get("code_maps"):
        raise UserError(
            f"the predicate {plain.name} means codes of {mapped[0].partition('//')[0]}, which this study has mapped to "
            "others: name its tokens with --positive instead"
        )
    first = {study.first.get(code) or _first(study.rules, code) for code in ours}
    names = {name for name in first if name and _known(study.vocabulary, name)}
    others = {name for code, name in study.first.items() if code not in ours}
    return Meaning(tuple(sorted(names)), tuple(sorted(names & others)))


def lines(study: Study, plains: Iterable[Plain]) -> list[str]:
    """What is to be told of predicates: those that mean no token, and those whose tokens mean more."""
    out = []
    # Of several that mean the same codes the first is named
    for plain in {(plain.codes, plain.regex): plain for plain in reversed(list(plains))}.values():
        meaning, what = meant(study, plain), ", ".join(plain.codes) or plain.regex
        if not meaning.tokens:
            out.append(
                f"predicate {plain.name} ({what}) means no token of this vocabulary: it is taken never to happen"
            )
        if meaning.wider:
            out.append(
                f"predicate {plain.name}: {', '.join(meaning.wider)} stands for other codes too, which count as it"
            )
    return out


def _matches(study: Study, plain: Plain, code: str) -> bool:
    if not plain.regex:
        return code in plain.codes
    return any(re.search(plain.regex, spelling) for spelling in _spellings(study.dialect, code))


def _spellings(dialect: str, code: str) -> list[str]:
    """A code of ours as its data set may have spelt it."""
    family, _, rest = code.partition("//")
    candidates = (
        [f"LAB//RESULT//{rest}", code] if family == "LAB" else [f"LAB//{rest}", code] if family == "CHART" else []
    )
    return [c for c in candidates if dialects.canonical(dialect, c) == (code,)] or [code]


def _first(rules: Rules, code: str) -> str:
    paths = rules(code).paths
    return paths[0][0] if paths else ""


def _known(vocabulary: Vocabulary, name: str) -> bool:
    return name in vocabulary.index or name in vocabulary.quantiles
