"""Audits as a table for a terminal."""

import re
from collections.abc import Sequence
from typing import Any

CONTINUED = 8  # tokens of the continuations that the table has
_HEADER = (
    *("size", "passes", "patients", "held out", "AUROC, loss", "AUROC, ratio", "found at 1 %, ratio"),
    *("8 tokens given back", "excess", "excess, unshared", "log-ratio, rare"),
)


def table(records: Sequence[dict[str, Any]]) -> str:
    """A line a model, those of the highest membership AUROC first, under a header."""
    ordered = sorted(records, key=lambda record: -(_best(record) or 0.0))
    rows = [_HEADER, *(_row(record) for record in ordered)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = []
    if any((ratio := record["membership"]["ratio"]) and ratio["reference"]["saw_members"] for record in records):
        notes.append("* less the loss of a model that was trained on the same patients, or may have been: tells less")
    if any(record["started_from"] for record in records):
        notes.append("† started from another model: which patients that was trained on is not known")
    return "\n".join([*lines, *notes])


def _best(record: dict[str, Any]) -> float | None:
    known = [a["auroc"] for a in record["membership"].values() if a is not None and a["auroc"] is not None]
    return max(known, default=None)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    loss, ratio = record["membership"]["loss"], record["membership"]["ratio"]
    star = "*" if ratio and ratio["reference"]["saw_members"] else ""
    continued = {row["continuations"]: row for row in record["continuation"]["rows"] if _shown(row)}
    patients = "under 10" if record["patients_read"] is None else f"{record['patients_read']:,}"
    rarest = next((row["log_ratio"] for row in record["rare"] if "log_ratio" in row), None)
    return (
        record["size"] + ("†" if record["started_from"] else ""),
        f"{record['passes']:.3g}",
        patients,
        record["held_out"].partition(",")[0],
        _interval({"value": loss["auroc"], **loss}),
        _interval({"value": ratio["auroc"], **ratio}) + star if ratio else "–",
        _interval(ratio.get("true_positives"), share=True) if ratio else "–",
        _share(continued["all"].get("members")) if "all" in continued else "–",
        _interval(continued["all"].get("excess"), share=True) if "all" in continued else "–",
        _interval(continued["unshared"].get("excess"), share=True) if "unshared" in continued else "–",
        _interval(rarest),
    )


def _shown(row: dict[str, Any]) -> bool:
    return bool(row["tokens"] == CONTINUED and row["match"] == "exact")


def _share(told: dict[str, Any] | None) -> str:
    if told is None:
        return "–"
    if told["share"] is None:
        return f"under {told['at_most']:.1%}" if told["at_least"] == 0 else f"over {told['at_least']:.1%}"
    return f"{told['share']:.1%}"


def _interval(part: dict[str, Any] | None, share: bool = False) -> str:
    """Value and interval; where counts under 11 are not told, the most that it may be."""
    if part is None or (part.get("value") is None and part.get("high") is None):
        return "–"
    text = (lambda x: f"{x:.1%}") if share else (lambda x: re.sub(r"^(-?)0\.", r"\1.", f"{x:.3f}"))
    if part["value"] is None:
        return f"at most {text(part['high'])}"
    if part["low"] is None:
        return text(part["value"])
    return f"{text(part['value'])} [{text(part['low'])}, {text(part['high'])}]"
