"""A cell that nobody could train, for whatever goes by a few of its fields."""

from dataclasses import fields

from ehr_scaling.grid.cell import Cell, Engine


def cell(name, kind=Cell, **changes):
    """Of which only the name and `changes` are told."""
    nothing = {f.name: None for f in fields(Cell)} | {"engine": Engine(**{f.name: None for f in fields(Engine)})}
    return kind(**{**nothing, "id": name, "unit": name, "marks": (), "start": 0, "phase": "cooled", **changes})
