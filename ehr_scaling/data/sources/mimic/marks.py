"""Whose records the tables of a release are: by the checksums of the tables themselves, not by what lies beside them.

Generated patients are nobody's, and the demo may be seen by everybody, so that less is hidden of them. A file that says
so may have been copied beside real tables; what it says of their bytes would then not hold.
"""

from collections.abc import Iterable
from pathlib import Path

from ehr_scaling import artifacts
from ehr_scaling.data.sources import physionet
from ehr_scaling.errors import UserError

# SHA-256 of SHA256SUMS.txt, which has those of all tables
_DEMOS = {
    "19dfd55fac45035ba8e9f4c7e59180ee5184e877504f098e517a434d2646366a",  # MIMIC-IV Clinical Database Demo 2.2
    "0622cbe82d3fd9def18d1b910bb1082b92c025bb5c2ec60e1c6042154274cb81",  # MIMIC-IV-ED Demo 2.2
}


def are_generated(tables: Iterable[Path]) -> bool:
    """Whether every one of the tables, <release>/<hosp, icu or ed>/<file>, is as `synthetic.mimic` wrote it there."""
    return all(_as_generated(root, names) for root, names in _by_release(tables).items())


def are_demo(tables: Iterable[Path]) -> bool:
    """Whether every one of the tables is one of a demo of MIMIC-IV or MIMIC-IV-ED, byte for byte."""
    return all(_as_in_demo(root, names) for root, names in _by_release(tables).items())


def _by_release(tables: Iterable[Path]) -> dict[Path, list[str]]:
    names_by_root: dict[Path, list[str]] = {}
    for path in tables:
        root = path.parent.parent
        names_by_root.setdefault(root, []).append(path.relative_to(root).as_posix())
    return names_by_root


def _as_generated(root: Path, names: list[str]) -> bool:
    try:
        if artifacts.record(root)["inputs"].get("source") != "synthetic":
            return False
        artifacts.verify(root, names)
    except UserError:  # no record, another's, or one of other tables
        return False
    return True


def _as_in_demo(root: Path, names: list[str]) -> bool:
    manifest = root / physionet.MANIFEST
    if not manifest.is_file() or artifacts.sha256(manifest) not in _DEMOS:
        return False
    sums = physionet.parse_manifest(manifest.read_text(encoding="utf-8"), manifest)
    return all(sums.get(name) == artifacts.sha256(root / name) for name in names)
