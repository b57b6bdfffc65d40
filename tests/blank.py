"""A cell that nobody could train, for whatever goes by a few of its fields."""

from dataclasses import fields

from ehr_scaling.grid.cell import Cell, Engine


def cell(name, kind=Cell, **changes):
    """Of which only the name, that it has no steps, and `changes` are told."""
    nothing = {f.name: None for f in fields(Cell)} | {"engine": Engine(**{f.name: None for f in fields(Engine)})}
    told = {"id": name, "unit": name, "marks": (), "start": 0, "steps": 0, "phase": "cooled"}
    return kind(**{**nothing, **told, **changes})
