"""What a MEDS data set tells of its codes, their descriptions and parents, for ours that were made of them."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ehr_scaling.data import parquet
from ehr_scaling.data.sources.meds import dialects, shuffle, spelling
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.errors import UserError

FILE = Path("metadata", "codes.parquet")
_ANCESTORS = 32  # of a code, nearest first


def read(raw: Path) -> pa.Table:
    """Code, description and parents from metadata/codes.parquet; it may be all of an ontology, so it stays Arrow's.

    Raises: UserError for a file that cannot be read or has no column of codes; of a data set without one the table is
      empty.
    """
    path = raw / FILE
    schema = pa.schema({"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())})
    if not path.is_file():
        return schema.empty_table()
    table = meds_reading.whole(path)
    if "code" not in table.column_names:
        raise UserError(f"{path} has no column code: mend it or delete it")
    columns = []
    for field in schema:
        try:
            columns.append(table[field.name].cast(field.type))
        except (KeyError, pa.ArrowException):  # it is not there, or of another kind
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema).filter(pc.is_valid(columns[0]))


def spelt(folder: shuffle.Folder, units: int) -> set[tuple[str, str]]:
    """Pairs of a code of theirs and what of ours it became, as so many pieces of work have left them in `folder`."""
    pairs: set[tuple[str, str]] = set()
    for i in range(units):
        table = parquet.read(folder.spelt(i))
        pairs.update(zip(table["theirs"].to_pylist(), table["ours"].to_pylist(), strict=True))
    return pairs


def several_units(pairs: set[tuple[str, str]]) -> int:
    """Codes of theirs that became several of ours, by their unit or other modifiers."""
    return sum(n > 1 for n in Counter(theirs for theirs, _ in pairs).values())


def descriptions_and_parents(
    pairs: set[tuple[str, str]], told: pa.Table, dialect: str
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Descriptions and parents of our codes. Parents are spelt as our codes are, followed by theirs, nearest first.

    Args: pairs, as `spelt` has them; told, as `read` has it.
    """
    descriptions: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    if not len(told):
        return descriptions, parents
    text, above = _closure(told, {theirs for theirs, _ in pairs})
    for theirs, ours in sorted(pairs):
        if text.get(theirs):
            descriptions.setdefault(ours, text[theirs])
        ancestors: dict[str, None] = {}
        level = [theirs]
        while level and len(ancestors) < _ANCESTORS:
            level = [p for code in level for p in above.get(code, ()) if p != theirs and p not in ancestors]
            ancestors |= dict.fromkeys(level)
        spelt = [
            code if dialect == dialects.OWN else spelling.own_spelling(spelling.prefixed(code)) for code in ancestors
        ]
        if spelt:
            parents[ours] = list(dict.fromkeys([*parents.get(ours, []), *spelt]))[:_ANCESTORS]
    return descriptions, parents


def _closure(told: pa.Table, codes: set[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Descriptions of codes; parents of them and of all their ancestors."""
    text: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    level = codes
    while level:
        rows = told.filter(pc.is_in(told["code"], pa.array(sorted(level), pa.string())))
        for code, description, parents in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            if description:
                text[code] = description
            above[code] = [parent for parent in parents or () if parent]
        for code in level:
            above.setdefault(code, [])
        level = {parent for code in level for parent in above[code]} - above.keys()
    return text, above
