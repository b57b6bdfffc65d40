"""MIMIC-IV (2.2, 3.0, 3.1, the demo), with or without MIMIC-IV-ED, as MEDS events.

Johnson et al., "MIMIC-IV, a freely accessible electronic health record dataset", Sci Data 2023;10:1. Codes keep the
spelling of the tables; the tokenizer normalises them. Three presets (`presets`):

`ethos_ares` (Renc et al., ETHOS-ARES, 2025) and `ethos_paper` (Renc et al., npj Digit Med 2024;7:256) give the events,
times and order of those programs, whatever one may think of them: SOFA at ICU admission, though it is known a day
later; in `ethos_paper` diagnoses at admission. `ethos_ares` takes rows that agree in all the columns it keeps for one,
leaves a death of which only the day is known at 00:00:00, puts a death before a discharge of the same time, adds
DRG//UNKNOWN to a stay without a DRG, drops what is dated before birth or 1970, and lets a blood pressure of the ED lack
its numbers.
`ethos_paper` puts the ends of stays before what begins at the same time, births at mid-year, deaths out of hospital at
23:59, uses services for transfers, names labs, gives a DRG one description, and adds to a drug the GSN that
prescriptions most often have for its name.

`clean`, the default, follows ETHOS-ARES where it has no reason not to:
- Events stand where they were known, see `tables`; by `times="happened"` a day without an hour (omr, procedures,
  HCPCS) is at 00:00, or at the admission that it belongs to, and race is one per patient: of the first admission that
  tells more than OTHER, else OTHER, else UNKNOWN. A death of which only the day is known is at 23:59:59.
- Stays and deaths that contradict each other are settled by `reconcile`; what that touched is counted in "mended".
- Only lab results with a number or a bound, doses (`codes.doses`) with a name, DRGs of type HCFA, and the transfers
  "admit" and "transfer" are kept: "ED" and "discharge" repeat what the admission tells.
- A visit to the ED is taken from the ED module where that has it, else from its admission.
- Where times are equal, the rows of a table keep their order, which for diagnoses and procedures is `seq_num`.
- Rows are repeated where their table's own key is: two equal results of two specimens are two.
- SOFA (`sofa`) is at the end of the first day in the ICU, of stays that last so long.

Whatever a row lacks is counted by table and reason in "dropped"; nothing goes silently. Arrow reads: measured on 10.8 M
lab rows in csv.gz, it gives them at 3.5 M rows/s in 0.2 GB and in their order, DuckDB 2.0 with `COPY … PARTITION_BY` at
1.7 M rows/s in 1 GB, and at 1.0 M rows/s where the order of the file matters.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehr_scaling.artifacts import fingerprint_files, write_json
from ehr_scaling.data import shards
from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Splits
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.sources import physionet
from ehr_scaling.data.sources.mimic import gathering as mimic_gather
from ehr_scaling.data.sources.mimic import index as mimic_index
from ehr_scaling.data.sources.mimic import marks as mimic_marks
from ehr_scaling.data.sources.mimic import presets
from ehr_scaling.data.sources.mimic import reading as mimic_read
from ehr_scaling.data.sources.mimic import spreading as mimic_spread
from ehr_scaling.data.sources.mimic import tables as mimic_tables
from ehr_scaling.data.sources.mimic.spreading import SCRATCH, Plan
from ehr_scaling.errors import UserError

VERSION = 4  # of what is made of the files; a change of it refuses events that were made before
_LOOKUPS = {
    "hosp/d_labitems": "itemid label",
    "hosp/d_icd_diagnoses": "icd_code icd_version long_title",
    "hosp/d_icd_procedures": "icd_code icd_version long_title",
    "icu/d_items": "itemid label",
}
_GSN_TABLE = "hosp/prescriptions"
# What to download: the tables of the default preset without the ED module, and what names their codes.
FILES = tuple(
    f"{table}.csv.gz"
    for table in dict.fromkeys([*(p.table for p in presets.places("clean", ed=False, times="known")), *_LOOKUPS])
    if "/" in table and table not in mimic_tables.OPTIONS
)


def inputs(
    raw: Path | None,
    *,
    preset: str = "clean",
    tables: tuple[str, ...] = (),
    ed: Path | str | None = None,
    times: str | None = None,
    memory_gb: float = 4.0,
) -> dict[str, Any]:
    """What the events are made from; how much memory is used changes nothing in them.

    Raises: UserError where a table is missing.
    """
    files, _ = _files(raw, preset, tables, ed)
    assert raw is not None
    roots = {path.parent.parent for path in files.values()}
    marks = {
        "raw" if root == Path(raw) else "ed": fingerprint_files([p for p in files.values() if root in p.parents], root)
        for root in sorted(roots)
    }
    return {
        "source": "mimic-iv",
        "version": VERSION,
        **marks,
        "preset": preset,
        "tables": sorted(tables),
        "times": mimic_tables.chosen_times(preset, times),
    }


def extract(
    raw: Path | None,
    out: Path,
    *,
    seed: int,
    splits: Splits = (0.8, 0.1, 0.1),
    runner: Runner | None = None,
    preset: str = "clean",
    tables: tuple[str, ...] = (),
    ed: Path | str | None = None,
    times: str | None = None,
    memory_gb: float = 4.0,
) -> dict[str, Any]:
    """Write the MEDS events of a MIMIC-IV release; `raw` is its folder, with hosp/ and icu/ (.csv.gz, .csv, .parquet).

    Args:
      runner: processes that share the tables, and then the shards.
      preset: "clean", "ethos_ares" or "ethos_paper".
      tables: optional tables besides the preset's, such as "chartevents" (clean: chartevents, inputevents,
        outputevents, procedureevents, services); with "-" before it, a table to leave out.
      ed: folder of MIMIC-IV-ED, if its tables are not in raw/ed/.
      times: "known" (clean's default: a fact stands where it was known) or "happened" (all that the others can).
      memory_gb: of all processes together, beyond what the libraries take.
    Returns: the summary of events.finish, with "name", "license", "preset", "tables" {table: rows, or why it is left
      out}, "dropped" and "mended" {"table: reason": count}, "several_units" {table: items in more than one
      unit}, "sofa".
    Raises: UserError for what is wrong with the tables; before any work where that can be seen.
    """
    runner = runner or Runner()
    files, emitted = _files(raw, preset, tables, ed)
    assert raw is not None
    sofa = _suffices_for_sofa(files)
    names = {table: str(path) for table, path in files.items()}
    times = mimic_tables.chosen_times(preset, times)
    plan = Plan(names, emitted, preset, "ed/edstays" in files, sofa, times, _flush(memory_gb, runner.workers))
    used = list(dict.fromkeys(place.table for _, place in plan.places()))
    for table in used:
        of_table = [place for _, place in plan.places() if place.table == table]
        mimic_read.check(files[table], table, mimic_spread.columns(table, of_table, times))
    for table, needed in {**_extra(files, preset), "hosp/admissions": mimic_index.admissions(preset)}.items():
        mimic_read.check(files[table], table, needed.split())
    for root in {path.parent.parent for path in files.values()}:
        physionet.verify(root, [p.relative_to(root).as_posix() for p in files.values() if root in p.parents])

    scratch = out / SCRATCH
    scratch.mkdir(exist_ok=True)
    first = shards.once(scratch / "index.json", lambda: _index(scratch, files, preset, seed, splits))
    if preset == "ethos_paper" and _GSN_TABLE in files:
        shards.once(scratch / "prescriptions.json", lambda: _gsn(scratch, files[_GSN_TABLE]))
    # The largest first: the last unit to end is then a short one.
    used.sort(key=lambda table: -files[table].stat().st_size)
    here = runner.for_bytes(sum(files[table].stat().st_size for table in used))
    read = shards.run(
        mimic_spread.spread,
        [(out, plan, table) for table in used],
        [scratch / f"{mimic_spread.name_of(table)}.json" for table in used],
        here,
        "tables",
    )
    order = json.loads((scratch / "shards.json").read_text(encoding="utf-8"))
    written = shards.run(
        mimic_gather.gather,
        [(out, plan, i) for i, (split, _) in enumerate(order) if split >= 0],
        [out / events.PARTS / f"{events.SPLITS[split]}-{k}.json" for split, k in order if split >= 0],
        here,
        "shards",
    )
    demo, generated = mimic_marks.are_demo(files.values()), mimic_marks.are_generated(files.values())
    metadata = {
        "dataset_name": "MIMIC-IV Clinical Database Demo" if demo else "MIMIC-IV",
        "license": "ODbL 1.0" if demo else "PhysioNet Credentialed Health Data License 1.5.0",
        "location_uri": "https://physionet.org/content/mimiciv" + ("-demo/" if demo else "/"),
    }
    if generated:
        metadata = {"dataset_name": "generated patients in MIMIC-IV's files", "license": "Apache-2.0"}
    totals = events.finish(out, metadata, splits=splits, descriptions=_Descriptions(files))
    dropped = sum((Counter(part["dropped"]) for part in [*read, *written]), Counter[str]())
    rows: dict[str, Any] = {table: part["rows"] for table, part in zip(used, read, strict=True)}
    return {
        **totals,
        "name": metadata["dataset_name"],
        "license": metadata["license"],
        "generated": generated,
        "preset": preset,
        "tables": {**rows, **_left_out(preset, used, sofa)},
        "dropped": dict(sorted(dropped.items())),
        "mended": dict(sorted(sum((Counter(part["mended"]) for part in [first, *read]), Counter[str]()).items())),
        "times": plan.times,
        **({"split_file": first["split_file"]} if "split_file" in first else {}),
        "several_units": {t: n for t, part in zip(used, read, strict=True) if (n := part["several_units"])},
        "sofa": _sofa_summary([part["sofa"] for part in written if part["sofa"]], sofa),
    }


def _files(
    raw: Path | None, preset: str, tables: tuple[str, ...], ed: Path | str | None
) -> tuple[dict[str, Path], list[str]]:
    """The file of each table that is read, and the tables of which events are made.

    Raises: UserError for a table that is missing though it is required or was asked for, and for unknown names.
    """
    if raw is None:
        raise UserError("mimic-iv needs the folder of the release, with hosp/ and icu/ in it: give it with --raw=DIR")
    raw = Path(raw)
    if preset not in presets.PRESETS:
        raise UserError(f"mimic-iv has no preset {preset!r}: take one of {', '.join(presets.PRESETS)}")
    known = {p.table for p in presets.places(preset, ed=True, times="known") if "/" in p.table}
    extra = {p.table for p in mimic_tables.SOFA_INPUTS}
    short = {table.partition("/")[2]: table for table in sorted(known | extra | {"icu/icustays"}, reverse=True)}
    requested: set[str] = set()
    without: set[str] = set()
    for name in tables:
        plain = name.removeprefix("-").partition("/")[2] or name.removeprefix("-")
        if plain not in short:
            raise UserError(f"the preset {preset} reads no table {plain!r}: take some of {', '.join(sorted(short))}")
        (without if name.startswith("-") else requested).add(short[plain])
    if lost := [table for table in mimic_tables.REQUIRED if table in without]:
        raise UserError(f"{lost[0]} is needed: take -{lost[0].partition('/')[2]} out of the tables")
    optional = {t for t in mimic_tables.OPTIONS if preset == "clean"}
    wanted = (known - optional | requested) - without
    ed_folder = Path(ed) if ed is not None else raw
    if ed is not None and not (ed_folder / "ed").is_dir():
        raise UserError(
            f"{ed_folder} holds no folder ed/: --config.data.ed must be the folder of a release of MIMIC-IV-ED"
        )
    files: dict[str, Path] = {}
    for table in sorted((wanted | extra - without) | set(_LOOKUPS) | {_GSN_TABLE}):
        path = mimic_read.find(ed_folder if table.startswith("ed/") else raw, table)
        if path is not None:
            files[table] = path
        elif table in mimic_tables.REQUIRED:
            raise UserError(
                f"{raw / table}.csv.gz is missing: --raw must be the folder of a release, with hosp/ and icu/ in it"
            )
        elif table in requested:
            raise UserError(f"{raw / table}.csv.gz is missing: copy it there, or take it out of the tables")
    if preset == "ethos_paper" and "hosp/labevents" in files and "hosp/d_labitems" not in files:
        raise UserError(f"{raw / 'hosp/d_labitems'}.csv.gz is missing: the preset ethos_paper takes names from it")
    if "ed/edstays" not in files:
        if ed is not None:
            raise UserError(f"{ed_folder / 'ed/edstays'}.csv.gz is missing: copy it there from MIMIC-IV-ED")
        files = {table: path for table, path in files.items() if not table.startswith("ed/")}
    if not _suffices_for_sofa(files):  # then what only SOFA needs is not read
        files = {table: path for table, path in files.items() if table in wanted or table not in extra}
    needed_lookups = _extra(files, preset)
    read = {t: p for t, p in files.items() if t in wanted or t in extra or t in needed_lookups}
    return read, sorted(wanted & set(read))


def _suffices_for_sofa(files: Mapping[str, Path]) -> bool:
    return {"hosp/labevents", "icu/chartevents", "icu/icustays"} <= set(files)


def _extra(files: Mapping[str, Path], preset: str) -> dict[str, str]:
    """Columns of the tables that only explain others."""
    extra = {**_LOOKUPS, **({_GSN_TABLE: "drug gsn"} if preset == "ethos_paper" else {})}
    return {table: names for table, names in extra.items() if table in files}


def _left_out(preset: str, used: list[str], sofa: bool) -> dict[str, str]:
    wanted = {p.table for p in presets.places(preset, ed=True, times="known") if "/" in p.table}
    if not sofa:
        wanted |= {"icu/chartevents"}
    return {
        table: "optional, not asked for" if table in mimic_tables.OPTIONS and preset == "clean" else "not there"
        for table in sorted(wanted - set(used))
    }


def _flush(memory_gb: float, workers: int) -> int:
    """Events that one process holds, of some 100 bytes while they are sorted, in a third of its memory."""
    return max(10_000, min(mimic_spread.FLUSH, int(memory_gb * 1e9 / max(1, workers) / 3 / 100)))


def _index(scratch: Path, files: dict[str, Path], preset: str, seed: int, splits: Splits) -> dict[str, Any]:
    index, mended, about = mimic_index.build(files, preset, seed, splits)
    index.save(scratch / "index.npz")
    write_json(scratch / "shards.json", index.shards.tolist())
    return {"mended": {reason: n for reason, n in mended.items() if n}, **about}


def _gsn(scratch: Path, path: Path) -> dict[str, Any]:
    """Write the GSN that prescriptions most often have for each name of a drug; of equals the smallest."""
    counts: dict[str, Counter[str]] = {}
    log = mimic_read.Log()
    for batch in mimic_read.batches(path, {"drug": "text", "gsn": "text"}, log, lenient=True):
        drug, gsn = batch["drug"], batch["gsn"]
        pairs = Counter(zip(drug.at.tolist(), gsn.at.tolist(), strict=True))
        for (i, j), n in pairs.items():
            name, numbers = drug.words[i], gsn.words[j]
            if name and numbers:
                counts.setdefault(name, Counter()).update(dict.fromkeys(numbers.split(), n))
    best = {name: min(gsns, key=lambda g: (-gsns[g], g)) for name, gsns in counts.items() if gsns}
    write_json(scratch / mimic_gather.GSN, best)
    return {"rows": log.rows, "names": len(best)}


def _sofa_summary(parts: list[dict[str, Any]], sofa: bool) -> dict[str, Any]:
    if not sofa:
        return {"left_out": "needs labevents, chartevents and icustays"}
    lacking = sum((Counter(part["lacking"]) for part in parts), Counter[str]())
    stays, scores = sum(part["stays"] for part in parts), sum(part["scores"] for part in parts)
    return {"stays": stays, "scores": scores, "lacking": dict(lacking)}


class _Descriptions(Mapping[str, str]):
    """What the release's own dictionaries say of a code."""

    def __init__(self, files: Mapping[str, Path]):
        self.names: dict[str, dict[tuple[str, ...], str]] = {}
        for table, columns in _LOOKUPS.items():
            if table in files:
                batch, _ = mimic_index.read(files[table], columns, table)
                *keys, words = ([batch[c].words[i] for i in batch[c].at] for c in columns.split())
                self.names[table] = {
                    tuple(k or "" for k in key): word for *key, word in zip(*keys, words, strict=True) if word
                }

    def get(self, code: str, default: Any = None) -> Any:
        parts = code.split("//")
        if parts[0] == "LAB":
            return self._of("hosp/d_labitems", parts[1:2], default)
        if parts[0] in ("CHART", "INFUSION_START", "INFUSION_END", "SUBJECT_FLUID_OUTPUT"):
            return self._of("icu/d_items", parts[1:2], default)
        if len(parts) == 4 and parts[1] == "ICD":
            table = "hosp/d_icd_diagnoses" if parts[0] == "DIAGNOSIS" else "hosp/d_icd_procedures"
            return self._of(table, [parts[3], parts[2]], default)
        if parts[0] == "PROCEDURE" and len(parts) == 3:
            return self._of("icu/d_items", parts[2:3], default)
        return default

    def _of(self, table: str, key: list[str], default: Any) -> Any:
        return self.names.get(table, {}).get(tuple(key), default)

    def __getitem__(self, code: str) -> str:
        if (description := self.get(code)) is None:
            raise KeyError(code)
        return description

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return sum(len(names) for names in self.names.values())
