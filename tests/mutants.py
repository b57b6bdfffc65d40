"""Would the tests notice? Slips are put into a copy of the analysis one at a time, and its tests are run.

    make mutants                      # all of tests/analysis/mutants.toml
    make mutants ARGS="widths -j 2"   # those whose file or text holds "widths", two at a time

Each entry of the list names a file of ehr_scaling/analysis, a text that stands in it exactly once, what it is replaced
by, the test files that should notice, and where need be a pytest -k expression. Prints killed or survived for each, and
ends with status 1 where fewer than 90 % are killed. The working tree is never touched.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = Path("ehr_scaling/analysis"), Path("tests/analysis")
COPIED = ("ehr_scaling", "launch", "configs", "docs", "tests", "pyproject.toml")
LEAST, SLOWEST = 0.9, 900  # share killed; seconds of one run, after which it counts as killed
KEYS = {"file", "old", "new", "tests", "select"}
FAILED = 1  # pytest's status where tests failed; others are mistakes in the list

# What all tests import, once for all: most of the time of a test is that of its imports.
SHARED = (
    "pytest", "hypothesis.extra.numpy", "jinja2", "jax", "flax", "optax", "orbax.checkpoint", "matplotlib.figure",
    "pyarrow.parquet", "scipy.interpolate", "scipy.optimize", "scipy.sparse.csgraph", "scipy.stats",
)  # fmt: skip

Entry = dict  # of KEYS


def listed(words: list[str]) -> list[Entry]:
    entries = tomllib.loads((ROOT / TESTS / "mutants.toml").read_text())["mutant"]
    for entry in entries:
        entry.setdefault("select", "")
        if set(entry) != KEYS:
            sys.exit(f"mutants.toml: an entry has the keys {sorted(entry)}, and not {sorted(KEYS)}")
        times = (ROOT / PACKAGE / entry["file"]).read_text().count(entry["old"])
        if times != 1:
            sys.exit(f"mutants.toml: {entry['old']!r} stands {times} times in {entry['file']}: mend the entry")
    return [e for e in entries if not words or any(w in e["file"] or w in e["old"] or w in e["new"] for w in words)]


def copied(source: Path, folder: Path) -> Path:
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns(".hypothesis"))
        else:
            shutil.copy2(source / name, folder / name)
    return folder


def tested(folder: Path, entry: Entry) -> int:
    """The process that runs the tests of an entry in a copy and ends with pytest's status."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    signal.alarm(SLOWEST)
    os.environ.setdefault("EHR_SCALING_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    os.environ["PYTHONPATH"] = str(folder)  # of programs that tests start
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "nightly or not nightly"]
    options += ["-k", entry["select"]] if entry["select"] else []
    os._exit(import_module("pytest").main([*options, *(str(TESTS / name) for name in entry["tests"])]))


def statuses(base: Path, entries: list[Entry], jobs: int, *, mutated: bool) -> Iterator[tuple[Entry, int, float]]:
    """Each entry with the status of its tests and the seconds that they took, as they end; in `base` itself where
    nothing is `mutated`."""
    waiting, running = list(reversed(entries)), {}
    while waiting or running:
        if waiting and len(running) < jobs:
            entry, folder = waiting.pop(), base
            if mutated:
                folder = copied(base, Path(tempfile.mkdtemp(dir=base.parent)))
                path = folder / PACKAGE / entry["file"]
                path.write_text(path.read_text().replace(entry["old"], entry["new"]))
            running[tested(folder, entry)] = entry, folder, time.monotonic()
            continue
        pid, ended = os.wait()
        entry, folder, began = running.pop(pid)
        if mutated:
            shutil.rmtree(folder)
        code = os.waitstatus_to_exitcode(ended)
        yield entry, FAILED if code == -signal.SIGALRM else code, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="take only entries whose file or text holds one of these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="copies that are tested at a time")
    args = parser.parse_args()
    entries, killed = listed(args.words), 0
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in SHARED:
        import_module(name)
    plain = {(tuple(e["tests"]), e["select"]): e for e in entries}
    with tempfile.TemporaryDirectory() as temporary:
        (base := Path(temporary) / "as it is").mkdir()
        copied(ROOT, base)
        for e, code, _ in statuses(base, list(plain.values()), args.jobs, mutated=False):
            if code:  # a test that fails anyhow notices nothing
                sys.exit(f"mutants.toml: {' '.join(e['tests'])} -k {e['select']!r} ends with {code} without a mutant")
        for e, code, seconds in statuses(base, entries, args.jobs, mutated=True):
            if code not in (0, FAILED):
                sys.exit(f"mutants.toml: pytest ends with {code} for {e['new']!r} in {e['file']}: mend the entry")
            killed += code == FAILED
            old, new = (" ".join(e[key].split())[:70] for key in ("old", "new"))
            print(f"{'killed  ' if code else 'SURVIVED'} {seconds:4.0f} s  {e['file']}: {old}  ->  {new}", flush=True)
    share = killed / max(len(entries), 1)
    print(f"{killed} of {len(entries)} killed, {100 * share:.0f} %")
    sys.exit(0 if share >= LEAST else 1)


if __name__ == "__main__":
    main()
