"""Would the tests notice? Slips are put into a copy of the analysis one at a time, and its tests are run.

    make mutants                      # all of analysis/mutants.toml
    make mutants ARGS="widths -j 2"   # those whose file or text holds "widths", two at a time

Each entry of the list names a file of ehr_scaling/analysis, a text that stands in it exactly once, what it is replaced
by, the test files that should notice, and where need be a pytest -k expression. Prints killed or survived for each, and
ends with status 1 where fewer than 90 % are killed. The working tree is never touched.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = Path("ehr_scaling/analysis"), Path("tests/analysis")
COPIED = ("ehr_scaling", "launch", "configs", "docs", "tests", "pyproject.toml")
LEAST, SLOWEST = 0.9, 900.0  # share killed; seconds of one run, after which it counts as killed
KEYS = {"file", "old", "new", "tests", "select"}
FAILED = 1  # pytest's status where tests failed; others are mistakes in the list


def listed(words: list[str]) -> list[dict]:
    entries = tomllib.loads((ROOT / TESTS / "mutants.toml").read_text())["mutant"]
    for entry in entries:
        entry.setdefault("select", "")
        if set(entry) != KEYS:
            sys.exit(f"mutants.toml: an entry has the keys {sorted(entry)}, and not {sorted(KEYS)}")
        if (found := (ROOT / PACKAGE / entry["file"]).read_text().count(entry["old"])) != 1:
            sys.exit(
                f"mutants.toml: {entry['old']!r} stands {found} times in {PACKAGE / entry['file']}: mend the entry"
            )
    return [e for e in entries if not words or any(w in e["file"] or w in e["old"] or w in e["new"] for w in words)]


def copied(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def status(folder: Path, entry: dict) -> int:
    """Of the tests that the entry names, in a copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command += ["-k", entry["select"]] if entry["select"] else []
    data = os.environ.get("EHR_SCALING_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    env = {**os.environ, "PYTHONPATH": str(folder), "EHR_SCALING_TEST_DATA": data}
    files = [str(TESTS / name) for name in entry["tests"]]
    try:
        done = subprocess.run([*command, *files], cwd=folder, env=env, capture_output=True, timeout=SLOWEST)
    except subprocess.TimeoutExpired:
        return FAILED
    return done.returncode


def judged(folders: "Queue[Path]", entry: dict, *, mutated: bool) -> tuple[int, float]:
    """Status of the tests and seconds, with the entry's slip where `mutated`."""
    folder, began = folders.get(), time.monotonic()
    path = folder / PACKAGE / entry["file"]
    text = path.read_text()
    try:
        if mutated:
            path.write_text(text.replace(entry["old"], entry["new"]))
        return status(folder, entry), time.monotonic() - began
    finally:
        path.write_text(text)
        folders.put(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="take only entries whose file or text holds one of these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="copies that are tested at a time")
    args = parser.parse_args()
    entries, killed = listed(args.words), 0
    plain = {(tuple(e["tests"]), e["select"]): e for e in entries}
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        folders: Queue[Path] = Queue()
        for k in range(args.jobs):
            folders.put(copied(Path(temporary) / str(k)))
        # A test that fails anyhow notices nothing.
        found = pool.map(lambda e: judged(folders, e, mutated=False), plain.values())
        for e, (code, _) in zip(plain.values(), found, strict=True):
            if code:
                sys.exit(f"mutants.toml: {' '.join(e['tests'])} -k {e['select']!r} ends with {code} without a mutant")
        found = pool.map(lambda e: judged(folders, e, mutated=True), entries)
        for e, (code, seconds) in zip(entries, found, strict=True):
            if code not in (0, FAILED):
                sys.exit(f"mutants.toml: pytest ends with {code} for {e['new']!r} in {e['file']}: mend the entry")
            killed += code == FAILED
            word = "killed  " if code else "SURVIVED"
            old, new = (" ".join(e[key].split())[:70] for key in ("old", "new"))
            print(f"{word} {seconds:4.0f} s  {e['file']}: {old}  ->  {new}", flush=True)
    share = killed / max(len(entries), 1)
    print(f"{killed} of {len(entries)} killed, {100 * share:.0f} %")
    sys.exit(0 if share >= LEAST else 1)


if __name__ == "__main__":
    main()
