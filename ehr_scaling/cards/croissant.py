"""The data card for machines: Croissant 1.0 (http://mlcommons.org/croissant/1.0), JSON-LD.

Paths in it are from the work directory: a copy of the file that lies there loads the record sets. What the artifacts do
not say of the properties that Croissant requires is left out, and open in the card, until somebody says it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ehr_scaling import __version__
from ehr_scaling.analysis.words import Verdict
from ehr_scaling.cards.evidence import ABOUT, Evidence
from ehr_scaling.cards.fields import OWNER, PUBLISHER, Field, unanswered
from ehr_scaling.layout import Layout

DATA = "data."
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
REQUIRED = ("@context", "@type", "conformsTo", "name", "description", "license", "url", "creator", "datePublished")
_TERMS = (
    *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
    *("replace", "separator", "source", "subField", "transform"),
)
CONTEXT = {  # as the specification recommends it
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
}
_FORMATS = {".parquet": "application/x-parquet", ".json": "application/json", ".md": "text/markdown"}
_TYPES = {"int": "sc:Integer", "uint": "sc:Integer", "float": "sc:Float", "double": "sc:Float", "bool": "sc:Boolean"}
_LICENCES = {
    "Apache-2.0": "https://spdx.org/licenses/Apache-2.0",
    "ODbL 1.0": "https://spdx.org/licenses/ODbL-1.0",
    "Open Data Commons Attribution License v1.0": "https://spdx.org/licenses/ODC-By-1.0",
}
_RECORDS = {  # of each table of the events: name, and what a row is
    "metadata/codes.parquet": ("codes", "A row a code of the events."),
    "metadata/subject_splits.parquet": ("splits", "A row a patient: the split that the patient is in."),
}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def fields(e: Evidence) -> list[Field]:
    """What Croissant requires beside names and files, answered where the events say it."""
    page = str(e.about.get("location_uri") or "")
    about = f"events/{ABOUT.as_posix()}"
    by, when = "Creator of this data set", "Date of publication, as 2026-01-31"
    return [
        Field(f"{DATA}license", "Licence", e.licence, "events/artifact.json") if e.licence
        else unanswered(f"{DATA}license", "Licence", OWNER),
        Field(f"{DATA}url", "Page of the records that it was made from", page, about) if page.startswith("http")
        else unanswered(f"{DATA}url", "Address of its page", PUBLISHER),
        unanswered(f"{DATA}creator", by, PUBLISHER),
        unanswered(f"{DATA}datePublished", when, PUBLISHER),
    ]  # fmt: skip


def json_ld(e: Evidence, word: Verdict, fields: Sequence[Field]) -> dict[str, Any]:
    """The document. fields: of `fields`, with people's answers."""
    said = {field.key.removeprefix(DATA): field.text for field in fields if field.text}
    told: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": _slug(e.source),
        "alternateName": e.source,
        "description": _description(e, word),
        "license": _licence(said["license"]) if "license" in said else None,
        "url": said.get("url"),
        "creator": {"@type": "sc:Organization", "name": said["creator"]} if "creator" in said else None,
        "datePublished": said.get("datePublished"),
        "version": _version(e),
        "keywords": ["electronic health records", "MEDS", f"{'generated' if e.generated else 'real'} patients"],
        "inLanguage": "en",
        "distribution": [*_files(e), _events_set()],
        "recordSet": list(_record_sets(e)),
    }
    return {name: value for name, value in told.items() if value is not None}


def is_date(text: str) -> bool:
    return bool(_DATE.fullmatch(text.strip()))


def _description(e: Evidence, word: Verdict) -> str:
    whose = "Generated patients (nobody's records)" if e.generated else "Records of real patients"
    splits = ", ".join(
        f"{e.words(e.timelines['summary'][name]['patients'])} for {name}" for name in ("train", "validation", "test")
    )
    return (
        f"{whose}: {e.source}, as events in MEDS and as tokenized timelines, made by ehr_scaling {__version__}. "
        f"Patients: {splits}. The study on them is {word.word}. Paths are from the work directory; timelines are "
        "ArrayRecord files of TFDS, of which Croissant has no record sets."
    )


def _licence(text: str) -> str | dict[str, str]:
    """As Croissant wants it: an address, or a work of this name."""
    known = _LICENCES.get(text, text)
    return known if known.startswith(("http://", "https://")) else {"@type": "sc:CreativeWork", "name": text}


def _version(e: Evidence) -> str | None:
    """Of the records, where it is MAJOR.MINOR.PATCH, as Croissant wants it."""
    version = str(e.about.get("dataset_version") or "")
    return version if re.fullmatch(r"\d+\.\d+\.\d+", version) else None


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "records"


def _files(e: Evidence) -> Iterator[dict[str, str]]:
    """Every file of events and timelines, with what its artifact's record says of it."""
    there = Layout(Path())
    for folder, record in ((there.events.name, e.events), (there.timelines.name, e.timelines)):
        for name, facts in sorted(record["files"].items()):
            path = f"{folder}/{name}"
            suffix = "." + name.rpartition(".")[2]
            yield {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "contentUrl": path,
                "contentSize": f"{facts['bytes']} B",
                "encodingFormat": _FORMATS.get(suffix, "application/octet-stream"),
                "sha256": facts["sha256"],
            }


def _events_set() -> dict[str, str]:
    return {
        "@type": "cr:FileSet",
        "@id": "events-files",
        "name": "events-files",
        "description": "The events, a folder a split (train, tuning, held_out).",
        "encodingFormat": _FORMATS[".parquet"],
        "includes": f"{Layout(Path()).events}/data/*/*.parquet",
    }


def _record_sets(e: Evidence) -> Iterator[dict[str, Any]]:
    for table, columns in e.columns.items():
        events = table not in _RECORDS
        name, description = ("events", "A row an event of a patient, as MEDS has it.") if events else _RECORDS[table]
        source = {"fileSet": {"@id": "events-files"}} if events else {"fileObject": {"@id": f"events/{table}"}}
        yield {
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "description": description,
            "field": [_field(name, column, kind, source) for column, kind in columns.items()],
        }


def _field(record_set: str, column: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    """kind: Arrow's name of the type. Croissant 1.0 has one type of times, sc:Date."""
    inner = kind.removeprefix("list<").rpartition(": ")[2].rstrip(">")
    bare = re.sub(r"\d.*|\[.*", "", inner)
    told = "sc:Date" if bare.startswith(("timestamp", "date")) else _TYPES.get(bare, "sc:Text")
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{column}",
        "name": f"{record_set}/{column}",
        "dataType": told,
        **({"repeated": True} if kind.startswith("list<") else {}),
        "source": {**source, "extract": {"column": column}},
    }
