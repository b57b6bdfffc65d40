"""Scores as laws.json has them."""

from typing import Any

from ehr_scaling.analysis.outcomes import decisions
from ehr_scaling.analysis.outcomes.scores import LEAST_LOSS, Group, Score, Valued, of_role, recalibrated_groups


def compared(scores: list[Score]) -> list[dict[str, Any]]:
    """A baseline has no cell."""
    return [
        {
            "name": s.name,
            "role": s.role,
            "cell": s.cell or None,
            "measures": {name: m.interval() for name, m in s.measures.items()},
            "differences": {name: m._asdict() for name, m in s.differences.items()},
            "shares": s.shares,
            "weighted": s.weighted,
            "calibration": [b._asdict() for b in s.bins],
            "recalibration": s.recalibration or None,
            "decision": decisions.to_json(s.decision),
            "net_benefit_less": {
                name: [{"threshold": one.threshold, **one.difference.interval()} for one in points]
                for name, points in s.net_benefits.items()
            },
            "counted": {"auroc": s.counted.auroc, "stays": s.counted.stays} if s.counted else None,
            "fitting": s.fitting or None,
        }
        for s in scores
    ]


def groups(scores: list[Score]) -> list[dict[str, Any]]:
    """Subgroups of the model of least loss, as it is and recalibrated."""
    moved = recalibrated_groups(scores)

    def of_group(group: Group | None) -> dict[str, Any] | None:
        if group is None:
            return None
        gaps = {name: gap._asdict() for name, gap in group.gaps.items()}
        return {"measures": {name: m.interval() for name, m in group.measures.items()}, "gaps": gaps}

    return [
        {
            "attribute": g.attribute,
            "group": g.name,
            "suppressed": g.suppressed or None,
            "counts": g.counts,
            **(of_group(g) or {}),
            "recalibrated": of_group(moved.get((g.attribute, g.name))),
        }
        for s in of_role(scores, LEAST_LOSS)
        for g in s.groups
    ]


def valued(tasks: list[Valued]) -> list[dict[str, Any]]:
    keys = ("name", "role", "cell", "measures", "shares")
    return [
        {
            "task": t.task,
            "kind": t.kind,
            "text": t.text,
            "models": t.models,
            "compared": [{key: score[key] for key in keys} for score in compared(t.scores)],
        }
        for t in tasks
    ]
