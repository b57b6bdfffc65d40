"""How every stage leaves its result on disk: whole, fingerprinted, or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ehr_scaling.errors import UserError

RECORD = "artifact.json"
_BEGUN = ".inputs.json"  # in a folder that is not complete yet


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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it becomes `path` when the block ends well, and is removed when it does not.

    No other process has the same, since two may write one file at once; the suffixes stay, which numpy goes by.
    """
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}.partial.{path.name}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    with writing(path) as partial, partial.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


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


def work_directory(path: Path) -> Path:
    """Make the folder `path`, which will hold patients' data, readable by its owner alone. One that is there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it against other processes; the kernel lets go of it when a process dies."""
    while True:
        work_directory(folder)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder.parent}: another process is making the same thing, waiting for it", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever held it before us may have renamed or removed it.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def build(
    path: Path, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]], *, resume: bool = False
) -> dict[str, Any]:
    """Make the artifact directory `path` from `inputs`, unless it is already there.

    `make(folder)` fills a folder beside `path` and returns a JSON summary; the folder takes the name `path` only when
    it is complete, so that a broken run leaves nothing a later one would trust. `artifact.json` in it records inputs,
    summary and the fingerprint that the next stage takes as its input. What begins with a dot in it is scratch, and
    goes at the end. Two processes never fill one folder: the second waits, and finds the artifact.

    Args: resume, whether `make` can go on with what an interrupted run of the same inputs left in the folder (units of
      `data.shards`); else it finds it empty.
    Returns: the record, `{"inputs", "fingerprint", "summary"}`.
    Raises: UserError when `path` was made from other inputs; it says which.
    """
    inputs = json.loads(json.dumps(inputs))  # tuples become lists, as they will be when read back
    if path.exists():
        return _made(path, inputs)
    partial = path.with_name(f".{path.name}.partial")
    with _locked(partial):
        if path.exists():
            shutil.rmtree(partial, ignore_errors=True)
            return _made(path, inputs)
        begun, done = partial / _BEGUN, partial / RECORD
        if not (done.is_file() and read_json(done)["inputs"] == inputs):
            if not (resume and begun.is_file() and read_json(begun) == inputs):
                _empty(partial, "*")
                write_json(begun, inputs)
            try:
                summary = make(partial)
            except BaseException:
                if not resume:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            record = {"inputs": inputs, "fingerprint": fingerprint(inputs), "summary": summary}
            write_json(done, record)
        _empty(partial, "**/.*")  # a killed unit's files too, which lie where its result would be
        partial.replace(path)
    return read_json(path / RECORD)


def _empty(folder: Path, pattern: str) -> None:
    for path in list(folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _made(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    record = read_json(path / RECORD)
    if changed := differences(record["inputs"], inputs):
        raise UserError(
            f"{path} was made from other inputs ({'; '.join(changed[:4])}): "
            "take another --workdir, or delete that folder and the ones made from it"
        )
    return record
