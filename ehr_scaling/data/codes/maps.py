"""Code maps that the user brings: ICD-9 to ICD-10, titles of ICD-10-CM categories, drug names to ATC.

A folder may hold ETHOS's own files (`icd_cm_9_to_10_mapping.csv.gz`, `mimic_drug_to_atc.csv.gz`, …), the General
Equivalence Mappings of CMS (`2018_I9gem.txt`, `gem_i9pcs.txt`, or tables with the columns source, target, flag), the
ICD-10-CM order file, and any table of drug and ATC code, or of ATC code and description. Each is csv, csv.gz or, for
CMS and CDC, their fixed-width text. In place of a table of drugs the names of RxNorm may lie there, as the NLM
publishes them (RXNCONSO.RRF), with the ATC codes that they carry. `download.py` fetches the public ones.
"""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

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


class _Kind(NamedTuple):
    name: str  # of a file that must be of this kind, as a regular expression
    columns: tuple[tuple[str, ...], ...]  # the columns read, in order: one of these sets


_ICD = (("icd_9", "icd_10", "flags?"), ("source", "target", "flags?"))
_DESCRIPTION = "atc_name|description|name|title|label"
_KINDS = {
    "icd9cm": _Kind(r"icd_?cm_9_to_10.*|gem.*icd9cm_to_icd10cm.*|(\d{4}_)?i9gem", _ICD),
    "icd9pcs": _Kind(r"icd_?pcs_9_to_10.*|gem.*icd9(proc|pcs)_to_icd10pcs.*|gem_i9pcs", _ICD),
    "titles": _Kind(r"icd10cm[-_]order(?!.*addenda).*", (("code", "long"),)),
    "gsn": _Kind(r"gsn_atc.*", (("gsn", "atc|atc_code"),)),
    "atc": _Kind(r".*drug_to_atc.*|rxnconso", (("drug", "atc|atc_code"),)),
    "atc_titles": _Kind(r"atc_coding.*", (("atc_code|atc", _DESCRIPTION), ("code", _DESCRIPTION))),
}
_TABLES = (".csv", ".csv.gz")
_TEXTS = (".txt", ".txt.gz")
_RRF = (".rrf", ".rrf.gz")
_NO_MAP = frozenset(["NODX", "NOPCS", ""])

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
        if not path.is_file() or path.name.startswith(".") or not path.name.lower().endswith(_TABLES + _TEXTS + _RRF):
            continue
        try:
            data = path.read_bytes() if _known(path.name) or _looks_like_map(path) else b""
        except (OSError, EOFError, zlib.error) as e:
            raise UserError(f"{path} cannot be read ({type(e).__name__}): copy it again or take it away") from None
        parsed = parse(path.name, data, path) if data or _known(path.name) else None
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


def parse(name: str, data: bytes, where: object) -> tuple[str, dict] | None:
    """(kind, map) of one file, None if it is none of the kinds.

    name: of the file, without folder; where: how messages name the file.
    Raises: UserError as in `load`, with the number of the row.
    """
    kind = _known(name)
    if name.lower().endswith(_TEXTS):
        if kind not in ("icd9cm", "icd9pcs", "titles"):
            return None  # CMS and CDC alone use this form
        rows = fixed_width(kind, _text(name, data, where), where)
    elif name.lower().endswith(_RRF):
        if kind != "atc":
            return None
        rows = rxnorm(_text(name, data, where), where)
    else:
        lines = _records(_text(name, data, where), where)
        header = [column.strip().lower() for column in next(lines, (0, []))[1]]
        kind, places = _columns(kind, header, "atc" in name.lower(), where)
        if kind is None:
            return None
        rows = _select(lines, places, where)
    table = _READ[kind](rows, where)
    if not table:
        raise UserError(f"{where} has no row: copy it again, or take it away")
    return kind, table


def icd10cm(maps: CodeMaps, icd9: str, rule: Rule = "ares") -> str | None:
    """The ICD-10-CM code that stands for an ICD-9-CM diagnosis; None without a map for it. No dots in either.

    rule, where the map has several targets:
      "ares": the first in sorted order, cut to its category of 3 characters (ETHOS-ARES, tokenize/mappings.py).
      "paper": the first row of the file, whole (ETHOS-paper, translation_base.py); CMS's files are sorted.
      "clean": what most targets agree on: in the category of most targets (the first of equals), the longest prefix
        that all of them share. The map is sure of no more: a fracture with the targets S12.000A (displaced) and
        S12.001A (nondisplaced) is S12.00.
    """
    targets = maps.icd9cm.get(_code(icd9), ())
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
    targets = maps.icd9pcs.get(_code(icd9), ())
    if rule == "clean" and targets:
        return _consensus(targets)
    return targets[0] if targets else None


def category_title(maps: CodeMaps, icd10: str, rule: Rule = "ares") -> str | None:
    """The long title of the category, the first 3 characters, of an ICD-10-CM code. None if not known."""
    category = _code(icd10)[:3]
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


def _known(name: str) -> str | None:
    """The kind that a file must be of by its name."""
    stem = re.sub(r"\.(csv|txt|rrf)(\.gz)?$", "", name.lower())
    return next((kind for kind, known in _KINDS.items() if re.fullmatch(known.name, stem)), None)


def _looks_like_map(path: Path) -> bool:
    """By the header of a table with a name of its own: the rest is not read yet, for it may be all of a hospital."""
    if not path.name.lower().endswith(_TABLES):
        return False
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as f:
        header = f.readline(1 << 12).decode("utf-8-sig", "replace").lower().replace('"', "").split(",")
    return bool(_columns(None, [column.strip() for column in header], "atc" in path.name.lower(), path)[0])


def _shared(codes: list[str]) -> str:
    """The longest common prefix of sorted codes: that of the first and the last."""
    first, last = codes[0], codes[-1]
    return first[: next((k for k, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]


def _code(text: str) -> str:
    return text.replace(".", "").strip().upper()


def _text(name: str, data: bytes, where: object) -> str:
    """The characters of a file, unpacked where its name ends in .gz."""
    if name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise UserError(f"{where} is damaged or no gzip file: copy it again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        row = data[: e.start].count(b"\n") + 1
        raise UserError(f"{where}, row {row}: not UTF-8: save the file in that encoding") from None


def _records(text: str, where: object) -> Iterator[tuple[int, list[str]]]:
    """(row, fields) of a comma-separated table, without empty rows. The header is row 1."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error:
            raise UserError(f"{where}, row {reader.line_num}: a quote that does not close, or no text") from None
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield reader.line_num, fields


def _columns(kind: str | None, header: list[str], of_atc: bool, where: object) -> tuple[str | None, list[int | None]]:
    """The kind of a table, by its name if that says it or else by its columns, and where its columns are.

    of_atc: the file says that it is about ATC; without that, code and description may be of anything.
    A column whose pattern ends in "?" may be missing: None.
    """
    for candidate in [kind] if kind else ["gsn", "atc", "atc_titles"]:
        for wanted in _KINDS[candidate].columns:
            if kind is None and wanted[0] == "code" and not of_atc:
                continue
            places = [next((k for k, c in enumerate(header) if re.fullmatch(p.rstrip("?"), c)), None) for p in wanted]
            if all(place is not None or pattern == "flags?" for place, pattern in zip(places, wanted, strict=True)):
                return candidate, places
    if kind:
        names = " or ".join(",".join(column.strip("?") for column in wanted) for wanted in _KINDS[kind].columns)
        raise UserError(f"{where} lacks the columns {names}, separated by commas: is it another file of that name?")
    return None, []


Rows = Iterator[tuple[int, list[str]]]


def _select(lines: Rows, places: list[int | None], where: object) -> Rows:
    for row, fields in lines:
        if any(place is not None and place >= len(fields) for place in places):
            raise UserError(f"{where}, row {row}: a column is missing")
        yield row, ["" if place is None else fields[place].strip() for place in places]


def fixed_width(kind: str, text: str, where: object) -> Rows:
    """(row, fields) of a file in the form of CMS.

    kind: "icd9cm" or "icd9pcs", source, target and flags between blanks; "titles", the order file, with the number of
      the row in columns 1-5, the code in 7-13 and the long title from 78 on.
    """
    for row, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if kind == "titles":
            fields = [line[6:13].strip(), line[77:].strip()]
            complete = bool(re.match(r"\d{5} ", line)) and all(fields)
        else:
            fields = line.split()
            complete = len(fields) == 3
        if not complete:
            raise UserError(f"{where}, row {row}: not in the form of CMS's file: fetch it again")
        yield row, fields


def rxnorm(text: str, where: object) -> Rows:
    """(row, [name, ATC code]) of RXNCONSO.RRF, the names of RxNorm: every name of a concept with every substance code
    (7 characters) that ATC has for it.

    A row is one name, of 18 fields that each end in a bar: the concept (1st), whose vocabulary it is (12th), its code
    there (14th), the name (15th), and N unless it is suppressed (17th). Rows: of the names.
    """
    codes: dict[str, list[str]] = {}
    names: list[tuple[int, str, str]] = []
    for row, line in enumerate(text.splitlines(), 1):
        fields = line.split("|")
        if len(fields) != 19:
            raise UserError(f"{where}, row {row}: not the 18 fields of RXNCONSO.RRF: fetch it again")
        concept, vocabulary, code, name, suppressed = (fields[k] for k in (0, 11, 13, 14, 16))
        if vocabulary == "ATC" and len(code) == 7:
            codes.setdefault(concept, []).append(code)
        if suppressed == "N":
            names.append((row, concept, name.strip()))
    for row, concept, name in names:
        for code in codes.get(concept, ()):
            yield row, [name, code]


def _targets(rows: Rows, where: object) -> dict[str, tuple[str, ...]]:
    targets: dict[str, list[str]] = {}
    for row, (source, target, flags) in rows:
        source, target = _code(source), _code(target)
        if not re.fullmatch(r"[A-Z0-9]{2,5}", source, re.ASCII) or not re.fullmatch(r"[A-Z0-9]{0,7}", target, re.ASCII):
            raise UserError(f"{where}, row {row}: not an ICD-9 code and its ICD-10 code")
        if flags and not re.fullmatch(r"\d{1,5}", flags, re.ASCII):
            raise UserError(f"{where}, row {row}: the flags are not 5 digits")
        # The digits: approximate, no map, combination, scenario, choice list. A spreadsheet drops leading zeros.
        if target not in _NO_MAP and flags.zfill(5)[1] != "1":
            targets.setdefault(source, []).append(target)
    return {source: tuple(sorted(several)) for source, several in targets.items()}


def _titles(rows: Rows, where: object) -> dict[str, str]:
    titles: dict[str, str] = {}
    for row, (code, title) in rows:
        code = _code(code)
        if not re.fullmatch(r"[A-Z0-9]{3,7}", code, re.ASCII) or not title:
            raise UserError(f"{where}, row {row}: not an ICD-10-CM code and its title")
        if len(code) == 3:
            titles.setdefault(code, title)
    return titles


def _named(rows: Rows, where: object) -> dict[str, tuple[str, ...]]:
    several: dict[str, list[str]] = {}
    for row, (name, code) in rows:
        if name and code and _atc_code(code, row, where) not in several.setdefault(name.lower(), []):
            several[name.lower()].append(code.upper())
    return {name: tuple(codes) for name, codes in several.items()}


def _atc_titles(rows: Rows, where: object) -> dict[str, str]:
    return {_atc_code(code, row, where): title for row, (code, title) in rows if title}


def _atc_code(code: str, row: int, where: object) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9]{0,7}", code.upper(), re.ASCII):
        raise UserError(f"{where}, row {row}: not an ATC code")
    return code.upper()


_READ: dict[str, Callable[[Rows, object], dict]] = {
    "icd9cm": _targets,
    "icd9pcs": _targets,
    "titles": _titles,
    "gsn": _named,
    "atc": _named,
    "atc_titles": _atc_titles,
}
