"""Code maps that the user brings: ICD-9 to ICD-10, titles of ICD-10-CM categories, drug names to ATC.

A folder may hold ETHOS's own files (`icd_cm_9_to_10_mapping.csv.gz`, `mimic_drug_to_atc.csv.gz`, …), the General
Equivalence Mappings of CMS (`2018_I9gem.txt`, `gem_i9pcs.txt`, or tables with the columns source, target, flag), the
ICD-10-CM order file, and any table of drug and ATC code, or of ATC code and description. Each is csv, csv.gz or, for
CMS and CDC, their fixed-width text. In place of a table of drugs the names of RxNorm may lie there, as the NLM
publishes them (RXNCONSO.RRF), with the ATC codes that they carry. `download.py` fetches the public ones.
"""

import hashlib
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from ehr_scaling.data.codes import map_files
from ehr_scaling.data.codes.drugs import ingredient
from ehr_scaling.errors import UserError

Rule = Literal["ares", "paper", "clean"]  # whose reading of several targets


class CodeMaps(NamedTuple):
    """What is known about codes; all empty where no folder was given."""

    icd9cm: dict[str, tuple[str, ...]]  # ICD-9-CM code → its ICD-10-CM targets, once a row, sorted; no dots
    icd9pcs: dict[str, tuple[str, ...]]  # ICD-9-CM procedure → its ICD-10-PCS targets, once a row, sorted
    titles: dict[str, str]  # ICD-10-CM category of 3 characters → its long title, as spelt in the file
    atc: dict[str, tuple[str, ...]]  # drug, lower case and stripped → ATC codes in the order of the file
    atc_titles: dict[str, str]  # ATC code → description
    gsn: dict[str, tuple[str, ...]]  # generic sequence number → ATC codes
    files: dict[str, str]  # kind, one of the above → SHA-256 of its file


# Categories that came after the order file of January 2021, with their titles in later ones.
_LATER = {"I5A": "Non-ischemic myocardial injury (non-traumatic)", "U09": "Post COVID-19 condition"}
# ETHOS-ARES (tokenize/mappings.py) adds 21 titles to its file. These are the ones of categories; the last of them is
# shorter than in the file.
_ARES = {
    **_LATER,
    "F32": "Major depressive disorder, single episode",
    "Z09": "Encounter for follow-up examination after completed treatment",
}


def load(folder: Path | None) -> CodeMaps:
    """The maps in `folder`; empty ones for None. Other files there are left alone.

    Rows that say "no map" (NoDx, NoPCS, or the second digit of the flags) are dropped: such a code has no targets.
    Raises: UserError for a damaged file, a file of a known name without its columns, two files of one kind, and a
      folder without any map.
    """
    maps: dict[str, dict] = {field: {} for field in CodeMaps._fields}
    if folder is None:
        return CodeMaps(**maps)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one of your code maps with --code_maps=DIR")
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or not path.name.lower().endswith(map_files.ENDINGS):
            continue
        try:
            data = path.read_bytes() if map_files.kind_of(path.name) or map_files.looks_like_map(path) else b""
        except (OSError, EOFError, zlib.error) as e:
            raise UserError(f"{path} cannot be read ({type(e).__name__}): copy it again or take it away") from None
        parsed = map_files.parse(path.name, data, path) if data or map_files.kind_of(path.name) else None
        if parsed is None:
            continue
        kind, table = parsed
        if kind in paths:
            raise UserError(f"{paths[kind]} and {path} are both maps of one kind ({kind}): keep one of them")
        paths[kind], maps[kind] = path, table
        maps["files"][kind] = hashlib.sha256(data).hexdigest()
    if not paths:
        raise UserError(
            f"{folder} holds no code map: put e.g. icd_cm_9_to_10_mapping.csv.gz, 2018_I9gem.txt or a table with the "
            "columns drug,atc_code there, or leave --code_maps out"
        )
    return CodeMaps(**maps)


def icd10cm(maps: CodeMaps, icd9: str, rule: Rule = "ares") -> str | None:
    """The ICD-10-CM code that stands for an ICD-9-CM diagnosis; None without a map for it. No dots in either.

    rule, where the map has several targets:
      "ares": the first in sorted order, cut to its category of 3 characters (ETHOS-ARES, tokenize/mappings.py).
      "paper": the first row of the file, whole (ETHOS-paper, translation_base.py); CMS's files are sorted.
      "clean": what most targets agree on: in the category of most targets (the first of equals), the longest prefix
        that all of them share. The map is sure of no more: a fracture with the targets S12.000A (displaced) and
        S12.001A (nondisplaced) is S12.00.
    """
    targets = maps.icd9cm.get(map_files.plain(icd9), ())
    if len(targets) < 2:
        return targets[0] if targets else None
    if rule == "clean":
        # X fills a place that has no meaning of its own: a prefix that ends in it says nothing more.
        shared = _consensus(targets)
        return shared if shared in targets else shared[:3] + shared[3:].rstrip("X")
    return targets[0][:3] if rule == "ares" else targets[0]


def icd10pcs(maps: CodeMaps, icd9: str, rule: Rule = "ares") -> str | None:
    """The ICD-10-PCS code that stands for an ICD-9-CM procedure; None without a map for it.

    rule, where the map has several targets: "ares" and "paper" take the first, whole (the same sources). "clean" is
    that of `icd10cm`: the characters of a PCS code are axes (section, body system, operation, part, approach, device,
    qualifier), and a prefix of 3 to 7 of them says what is sure. The median procedure has 6 targets.
    """
    targets = maps.icd9pcs.get(map_files.plain(icd9), ())
    if rule == "clean" and targets:
        return _consensus(targets)
    return targets[0] if targets else None


def category_title(maps: CodeMaps, icd10: str, rule: Rule = "ares") -> str | None:
    """The long title of the category, the first 3 characters, of an ICD-10-CM code. None if not known."""
    category = map_files.plain(icd10)[:3]
    if not maps.titles:
        return None
    if rule == "ares" and category in _ARES:
        return _ARES[category]
    return maps.titles.get(category) or (_LATER.get(category) if rule == "clean" else None)


def atc(maps: CodeMaps, drug: str) -> tuple[str, ...]:
    """All ATC codes of a drug's name in the order of the file, as ETHOS-ARES looks them up; () if not known."""
    return maps.atc.get(drug.strip().lower(), ())


def atc_one(codes: tuple[str, ...]) -> str | None:
    """One ATC code, or the group that several belong to: one drug is one path, so insulin is A10A and not nine codes.

    Several codes mean that the table cannot tell the use of the drug (a steroid has codes for skin, eye and blood) or
    its kind (nine insulins). Codes that share a therapeutic group (3 characters or more) give what they share, cut to
    a level of ATC (3, 4, 5 or 7 characters). Otherwise the group with the most codes is taken, a tie going to the one
    that is not for local use (A01, A07, B05, C05, D, G01, R01, R02, S are), then to the first in order.
    """
    distinct = sorted({code.strip().upper() for code in codes if len(code.strip()) >= 3})
    if not distinct:
        return None
    groups = Counter(code[:3] for code in distinct)
    group = min(groups, key=lambda g: (-groups[g], bool(_LOCAL.match(g)), g))
    shared = _shared([code for code in distinct if code[:3] == group])
    return shared[: max(level for level in (3, 4, 5, 7) if level <= len(shared))]


_last: tuple[dict[str, tuple[str, ...]], dict[str, str]] = ({}, {})


def atc_by_ingredient(maps: CodeMaps) -> dict[str, str]:
    """Ingredient → its one ATC path (`atc_one`), of all names in the table that `drugs.ingredient` knows.

    For drugs that a hospital spells otherwise than the table, which may list "metoprolol tartrate" and no metoprolol.
    The answer for the table of the last call is kept.
    """
    global _last
    if _last[0] is not maps.atc:
        codes: dict[str, tuple[str, ...]] = {}
        for name, several in maps.atc.items():
            if substance := ingredient(name):
                codes[substance] = codes.get(substance, ()) + several
        _last = maps.atc, {substance: one for substance, several in codes.items() if (one := atc_one(several))}
    return _last[1]


_LOCAL = re.compile(r"A01|A07|B05|C05|D|G01|R01|R02|S")


def _consensus(targets: tuple[str, ...]) -> str:
    """The prefix that the targets share in the group, by 3 characters, which has most of them, the first of equals."""
    distinct = sorted(set(targets))
    groups = Counter(target[:3] for target in distinct)
    group = max(groups, key=lambda g: groups[g])  # a Counter keeps the order: the first of equals
    return _shared([target for target in distinct if target[:3] == group])


def _shared(codes: list[str]) -> str:
    """The longest common prefix of sorted codes: that of the first and the last."""
    first, last = codes[0], codes[-1]
    return first[: next((k for k, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]
