"""How every stage leaves its result on disk: whole, fingerprinted, or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ehr_scaling.errors import UserError

RECORD = "artifact.json"


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON (keys sorted; tuples as lists)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_files(paths: list[Path], root: Path) -> str:
    """Fingerprint of files by name under `root`, size, and the first and last MiB of their bytes.

    Reading both ends tells one release or one patient sample from another without reading 10 GB.
    """
    rows = []
    for path in sorted(paths):
        digest = hashlib.sha256()
        with path.open("rb") as f:
            digest.update(f.read(1 << 20))
            size = path.stat().st_size
            if size > 2 << 20:
                f.seek(size - (1 << 20))
            digest.update(f.read(1 << 20))
        rows.append([path.relative_to(root).as_posix(), size, digest.hexdigest()])
    return fingerprint(rows)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises UserError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is damaged ({e}): delete {path.parent} and run again") from None


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two nested dicts differ, each with both values."""
    names: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key} was {a!r}, now {b!r}")
    return names


def build(path: Path, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Make the artifact directory `path` from `inputs`, unless it is already there.

    `make(folder)` fills an empty folder beside `path` and returns a JSON summary; the folder takes the name `path`
    only when it is complete, so that a broken run leaves nothing a later one would trust. `artifact.json` in it
    records inputs, summary and the fingerprint that the next stage takes as its input.

    Returns: the record, `{"inputs", "fingerprint", "summary"}`.
    Raises: UserError when `path` was made from other inputs; it says which.
    """
    inputs = json.loads(json.dumps(inputs))  # tuples become lists, as they will be when read back
    if path.exists():
        record = read_json(path / RECORD)
        if changed := differences(record["inputs"], inputs):
            raise UserError(
                f"{path} was made from other inputs ({'; '.join(changed[:4])}): "
                "take another --workdir, or delete that folder and the ones made from it"
            )
        return record
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        summary = make(partial)
        record = {"inputs": inputs, "fingerprint": fingerprint(inputs), "summary": summary}
        write_json(partial / RECORD, record)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.replace(path)
    return record
