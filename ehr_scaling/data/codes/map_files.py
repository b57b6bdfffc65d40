"""Files of code maps, as their publishers and users write them: which kind one is, and the rows of each form."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ehr_scaling.errors import UserError


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
TABLES = (".csv", ".csv.gz")
TEXTS = (".txt", ".txt.gz")
RRF = (".rrf", ".rrf.gz")
ENDINGS = (*TABLES, *TEXTS, *RRF)
_NO_MAP = frozenset(["NODX", "NOPCS", ""])


def parse(name: str, data: bytes, where: object) -> tuple[str, dict] | None:
    """(kind, map) of one file, None if it is none of the kinds.

    name: of the file, without folder; where: how messages name the file.
    Raises: UserError as in `load`, with the number of the row.
    """
    kind = kind_of(name)
    if name.lower().endswith(TEXTS):
        if kind not in ("icd9cm", "icd9pcs", "titles"):
            return None  # CMS and CDC alone use this form
        rows = fixed_width(kind, _text(name, data, where), where)
    elif name.lower().endswith(RRF):
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


def kind_of(name: str) -> str | None:
    """The kind that a file must be of by its name."""
    stem = re.sub(r"\.(csv|txt|rrf)(\.gz)?$", "", name.lower())
    return next((kind for kind, known in _KINDS.items() if re.fullmatch(known.name, stem)), None)


def looks_like_map(path: Path) -> bool:
    """By the header of a table with a name of its own: the rest is not read yet, for it may be all of a hospital."""
    if not path.name.lower().endswith(TABLES):
        return False
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as f:
        header = f.readline(1 << 12).decode("utf-8-sig", "replace").lower().replace('"', "").split(",")
    return bool(_columns(None, [column.strip() for column in header], "atc" in path.name.lower(), path)[0])


def plain(text: str) -> str:
    """An ICD code as maps have it: without dots, in capitals."""
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
        source, target = plain(source), plain(target)
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
        code = plain(code)
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
