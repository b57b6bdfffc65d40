"""How every stage leaves its result on disk: whole, fingerprinted, sealed by checksums, or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ehr_scaling import storage
from ehr_scaling.errors import UserError, of_system

RECORD = "artifact.json"
SEAL = "checksum"  # in a JSON object: the SHA-256 of the rest of it
_BEGUN = ".inputs.json"  # in a folder that is not complete yet
_LONG = 80  # characters of a value in a message
_WORTH_THREADS = 4 << 20  # bytes to hash; below it, starting them takes as long
_SETTLED = 100_000_000  # ns since a file was written, after which a change of it changes the time it shows
Sums = dict[str, dict[str, Any]]  # of each file, by its name in a folder: {"bytes", "sha256"}


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
    except BaseException as e:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(e, Exception) and not isinstance(e, UserError) and (told := of_system(e, path)):
            raise told from e
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    with writing(path) as partial, partial.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as it is, for other programs to read."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, which `read_json` goes by and takes off again."""
    write_json(path, sealed(value))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as JSON gives it back, with its checksum under SEAL."""
    plain = json.loads(json.dumps(value))  # tuples become lists and keys text, as they will be when read
    return {**plain, SEAL: _checksum(plain)}


def unsealed(value: dict[str, Any]) -> dict[str, Any] | None:
    """A JSON object without the checksum that it may have; None where that is not of the rest."""
    rest = {key: part for key, part in value.items() if key != SEAL}
    return rest if SEAL not in value or value[SEAL] == _checksum(rest) else None


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path, remedy: str = "", *, must_be_sealed: bool = False) -> Any:
    """The JSON value in `path`, without its seal where it has one.

    Args: remedy, what to do when the file is damaged; by default to delete its folder and run again. must_be_sealed,
      whether an object without a seal is refused too.
    Raises: UserError where it is missing, damaged, or not what was sealed.
    """
    remedy = remedy or f"delete {path.parent} and run again"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that writes it first") from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged ({e}): {remedy}") from None
    if not isinstance(value, dict):
        return value
    if must_be_sealed and SEAL not in value:
        raise UserError(f"{path.parent} was made by an earlier version, without checksums: {remedy}")
    if (rest := unsealed(value)) is None:
        raise UserError(f"{path} is damaged (it has changed since it was written): {remedy}")
    return rest


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON objects, one a line, each sealed with its place among so many: none can be lost or changed unseen."""
    lines = []
    for k, row in enumerate(rows):
        text = json.dumps(row)[:-1]
        lines.append(f'{text}{", " if row else ""}"{SEAL}": "{_checksum_of_line(text.encode(), k, len(rows))}"}}\n')
    write_text(path, "".join(lines))


def read_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """What `write_lines` wrote. Raises UserError with the number of the line that is damaged, and the remedy."""
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    if lines and not any(f'"{SEAL}"'.encode() in line for line in lines):
        raise UserError(
            f"{path} was written by an earlier version, without checksums by which to know damage: {remedy}"
        )
    for k, line in enumerate(lines):
        try:
            row = json.loads(line)
            seal = row.pop(SEAL)
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            raise UserError(f"{path} line {k + 1} is damaged: {remedy}") from None
        text = line.removesuffix(f'"{SEAL}": "{seal}"}}'.encode()).removesuffix(b", ")
        # Earlier versions sealed what a line says, not how it is written: that takes several times as long to check
        if seal != _checksum_of_line(text, k, len(lines)) and seal != _checksum([k, len(lines), row]):
            raise UserError(f"{path} is damaged at line {k + 1}, or not all there: {remedy}")
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty: {remedy}")
    return rows


def _checksum_of_line(text: bytes, number: int, lines: int) -> str:
    return hashlib.sha256(b"%d/%d %s" % (number, lines, text)).hexdigest()[:16]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two nested dicts differ, each with both values."""
    names: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key} was {_short(a)}, now {_short(b)}")
    return names


def _short(value: Any) -> str:
    """For a message of one line: a list of many runs is told by their number."""
    text = repr(value)
    return f"{len(value)} entries" if isinstance(value, list) and len(text) > _LONG else text


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
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # whoever held it has just renamed or removed it
            continue
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder.parent}: another process is making the same thing, waiting for it", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever held it before us may have renamed or removed it.
            try:
                same = os.path.samestat(os.fstat(handle), folder.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
        finally:
            os.close(handle)


def build(
    path: Path,
    inputs: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
    *,
    resume: bool = False,
    changing: Collection[str] = (),
    before: Mapping[str, Mapping[str, Any]] | None = None,
    version: int = 1,
) -> dict[str, Any]:
    """Make the artifact directory `path` from `inputs`, unless it is already there.

    `make(folder)` fills a folder beside `path` and returns a JSON summary; the folder takes the name `path` only when
    it is complete, so that a broken run leaves nothing a later one would trust. `artifact.json` in it records inputs,
    summary, the fingerprint that the next stage takes as its input, and size and SHA-256 of each file, which `verify`
    goes by. What begins with a dot in it is scratch, and goes at the end. Two processes never fill one folder: the
    second waits, and finds the artifact.

    Args: resume, whether `make` can go on with what an interrupted run of the same inputs left in the folder (units of
      `data.shards`); else it finds it empty. changing, files that may be written again and keep a seal of their own.
      before, by group of inputs: what settings were in artifacts of earlier versions, which did not have them. version,
      of what `make` makes of its inputs: one of them, but for the first, so that artifacts without one are the first's.
    Returns: the record, `{"inputs", "fingerprint", "summary", "files"}`.
    Raises: UserError when `path` was made from other inputs, which it names, and where it lacks one of its files.
    """
    inputs = inputs if version == 1 else {**inputs, "made_by_version": version}
    inputs = json.loads(json.dumps(inputs))  # tuples become lists, as they will be when read back
    if storage.handed_over(path / RECORD) and not storage.unsent(path / RECORD):
        storage.fetch(path)
        if _is_there(path):
            return _made(path, inputs, before or {})
    partial = path.with_name(f".{path.name}.partial")
    with storage.turn(path), _locked(partial):
        # Else what a dead machine left of an artifact would lie among the files here
        if in_bucket := storage.handed_over(path / RECORD):
            if storage.unsent(path / RECORD):  # the bucket could not take it, and another has made it since
                shutil.rmtree(path)
            storage.fetch(path)
        if _is_there(path):
            shutil.rmtree(partial, ignore_errors=True)
            known = _made(path, inputs, before or {})
            if not in_bucket:  # which could not take it
                storage.store(path, alone=True)
            return known
        begun, done = partial / _BEGUN, partial / RECORD
        if not (done.is_file() and verify(partial)["inputs"] == inputs):
            if not (resume and begun.is_file() and read_json(begun) == inputs):
                _empty(partial, "*")
                write_json(begun, inputs)
            try:
                summary = make(partial)
            except BaseException:
                if not resume:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            new_record = {"inputs": inputs, "fingerprint": fingerprint(inputs), "summary": summary}
            write_sealed(done, {**new_record, "files": sums(partial, changing)})
        _empty(partial, "**/.*")  # a killed unit's files too, which lie where its result would be
        shutil.rmtree(path, ignore_errors=True)  # what came of an artifact that is not whole in its bucket
        partial.replace(path)
        storage.store(path, alone=True)
    return record(path)


def _is_there(path: Path) -> bool:
    """Whether an artifact is; of one that another machine is just handing over to a bucket the record comes last."""
    return (path / RECORD).is_file() if storage.in_bucket(path) else path.exists()


def _empty(folder: Path, pattern: str) -> None:
    for path in list(folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _made(path: Path, inputs: dict[str, Any], before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    known = record(path)
    of_then = {
        **known["inputs"],
        **{group: {**settings, **known["inputs"].get(group, {})} for group, settings in before.items()},
    }
    if changed := differences(of_then, inputs):
        raise UserError(
            f"{path} was made from other inputs ({'; '.join(changed[:4])}): "
            "take another --workdir, or delete that folder and the ones made from it"
        )
    _present(path, known["files"], _again(path))
    return known


def record(folder: Path) -> dict[str, Any]:
    """The record of the artifact in `folder`, see `build`. Its files are not looked at.

    Raises: UserError where it is missing, damaged, or of a version that kept no checksums.
    """
    if not (folder / RECORD).is_file():
        storage.fetch(folder, RECORD)
    known = read_json(folder / RECORD, _again(folder), must_be_sealed=True)
    if not isinstance(known, dict) or not {"inputs", "fingerprint", "summary"} <= known.keys():
        raise UserError(f"{folder / RECORD} is damaged: {_again(folder)}")
    if "files" not in known:
        raise UserError(f"{folder} was made by an earlier version, without checksums: {_again(folder)}")
    return known


def verify(folder: Path, names: Iterable[str] | None = None, *, alone: bool = False) -> dict[str, Any]:
    """See that the artifact in `folder` is what was made: for whoever is about to read it.

    Each file is hashed, at some 1.5 GB/s a core; not again by a process that has done so since the file was written.
    Args: names, of the files that will be read; None: all of them. alone, that there may be no others, for one who
      reads whatever lies in the folder.
    Returns: the record.
    Raises: UserError that names the first file which is missing, was changed, or is not of the artifact.
    """
    storage.fetch(folder, gone=alone)
    known = record(folder)
    files: Sums = known["files"]
    if names is not None:
        wanted = list(names)
        if unknown := [name for name in wanted if name not in files]:
            raise UserError(f"{folder / unknown[0]} is none of the files of {folder}: {_again(folder)}")
        files = {name: files[name] for name in wanted}
    if alone and (others := [name for name in _files(folder) if name not in known["files"]]):
        raise UserError(f"{folder / others[0]} is none of the files of {folder}: take it away and run again")
    verify_files(folder, files, _again(folder))
    return known


def verify_files(folder: Path, files: Sums, remedy: str) -> None:
    """See that files are what `sums` found. Raises UserError that names the first one which is not, and the remedy."""
    _present(folder, files, remedy)
    for (name, known), digest in zip(files.items(), _hashes([folder / name for name in files]), strict=True):
        if known["sha256"] != digest:
            raise UserError(f"{folder / name} is damaged (it has changed since it was written): {remedy}")


def _present(folder: Path, files: Sums, remedy: str) -> None:
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {remedy}")
        if (size := path.stat().st_size) != known["bytes"]:
            raise UserError(f"{path} is damaged ({size:,} of {known['bytes']:,} bytes): {remedy}")


def _again(folder: Path) -> str:
    return f"delete {folder} and run the command that made it again"


def sums(folder: Path, but: Collection[str] = ()) -> Sums:
    """Size and SHA-256 of each file below `folder`, by its path there, but scratch, the record and those in `but`."""
    names = [name for name in _files(folder) if name not in but]
    paths = [folder / name for name in names]
    rows = zip(names, paths, _hashes(paths), strict=True)
    return {name: {"bytes": path.stat().st_size, "sha256": digest} for name, path, digest in rows}


def _files(folder: Path) -> list[str]:
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in paths if p.name != RECORD and not any(x.startswith(".") for x in p.parts))


def _hashes(paths: Sequence[Path]) -> list[str]:
    if len(paths) < 2 or sum(path.stat().st_size for path in paths) < _WORTH_THREADS:
        return [sha256(path) for path in paths]
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256, paths))


_known: dict[tuple[int, ...], str] = {}  # of files that this process has hashed, as long as they are not written to


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        about = os.fstat(f.fileno())
        key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        if (digest := _known.get(key)) is None:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
            if about.st_mtime_ns + _SETTLED < time.time_ns():  # else another write may show the same time
                _known[key] = digest
    return digest
