"""How many patients a model was trained on share something: a token, or a run of tokens.

Timelines are read a file at a time; a patient is in one file. Patients are meant by their ordinals in the split.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ehr_scaling.data.timelines import timelines

_SEED = 0xA0D17  # of the hash; which one changes nothing but which of 2^64 values collide
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: no power of it is 0


def _parts(workdir: Path, split: str, of: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens of each file, int64 (n,), and the ordinal of the patient that owns each, −1 of one who is not in `of`."""
    first = 0
    for part in timelines.batches(workdir, split):
        patients = first + np.arange(len(part.subject_ids))
        owners = np.repeat(np.where(np.isin(patients, of), patients, -1), np.diff(part.offsets))
        yield part.tokens.astype(np.int64), owners
        first += len(patients)


def patients_by_token(workdir: Path, seen: np.ndarray, vocabulary: int) -> np.ndarray:
    """How many of the patients `seen` have each token in their timelines: int64 (V,)."""
    counts = np.zeros(vocabulary, np.int64)
    for tokens, owners in _parts(workdir, "train", seen):
        kept = owners >= 0
        pairs = np.unique(owners[kept] * vocabulary + tokens[kept])
        counts += np.bincount(pairs % vocabulary, minlength=vocabulary)
    return counts


def rarest(workdir: Path, split: str, of: np.ndarray, counts: np.ndarray, most: int) -> np.ndarray:
    """Those of the patients `of` who have a token that 1 to `most` have, whoever has the rarest first: int64 (n,).

    Args: counts, (V,), of `patients_by_token`.
    """
    rare, patients, fewest = (counts > 0) & (counts <= most), [], []
    for tokens, owners in _parts(workdir, split, of):
        at = np.flatnonzero((owners >= 0) & rare[tokens])
        order = at[np.lexsort((counts[tokens[at]], owners[at]))]
        first = order[np.diff(owners[order], prepend=-1) > 0]
        patients.append(owners[first])
        fewest.append(counts[tokens[first]])
    return np.asarray(np.concatenate(patients)[np.argsort(np.concatenate(fewest), kind="stable")])


def patients_by_run(workdir: Path, seen: np.ndarray, runs: np.ndarray, vocabulary: int) -> np.ndarray:
    """How many of the patients `seen` have each run of k tokens anywhere in their timelines, one after another.

    Args: runs, int (n, k), k ≥ 1. Returns: int64 (n,).
    """
    count, k = runs.shape
    words = _words(vocabulary)
    wanted, place = np.unique(_hashes(words[runs].ravel(), k)[::k], return_inverse=True)
    times = np.zeros(len(wanted), np.int64)
    for tokens, owners in _parts(workdir, "train", seen):
        if len(tokens) < k:
            continue
        hashes, owner = _hashes(words[tokens], k), owners[: len(tokens) - k + 1]
        whole = (owner >= 0) & (owner == owners[k - 1 :])  # a patient's tokens stand together
        at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        hit = np.flatnonzero(whole & (wanted[at] == hashes))
        pairs = np.unique(np.stack([at[hit], owner[hit]]), axis=1)
        times += np.bincount(pairs[0], minlength=len(wanted))
    return times[place.reshape(count)]


def _words(vocabulary: int) -> np.ndarray:
    """A random value of each token: uint64 (V,)."""
    return np.random.default_rng(_SEED).integers(0, 2**64, vocabulary, np.uint64)


def _hashes(words: np.ndarray, k: int) -> np.ndarray:
    """A hash of each run of k of the words (n,), a polynomial modulo 2^64: uint64 (n − k + 1,).

    Of a thousand runs and a billion places one collides by chance in 10^7 studies.
    """
    hashes = np.zeros(len(words) - k + 1, np.uint64)
    for j in range(k):
        hashes = hashes * _BASE + words[j : len(words) - k + 1 + j]
    return hashes
