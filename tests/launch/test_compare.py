"""launch.compare as a user runs it."""

import csv
import json
import re
import sys

import numpy as np

from tests import forked


def launch(*flags):
    return forked.run([sys.executable, "-m", "launch.compare", *flags], capture_output=True, text=True, check=False)


def write(path, multiple, seed, **columns):
    """A grid of runs of a known law, as good as with 1 / multiple of their compute."""
    rng = np.random.default_rng(seed)
    rows = []
    for C in np.geomspace(1e12, 1e14, 4):
        for step in np.arange(-2.5, 3):
            N = 1e5 * (C / 1e12) ** 0.5 * 1.9**step
            D = C / 6 / N
            worth = multiple**0.17  # the root of the multiple in N and in D, to the power -0.34
            loss = 1 + 62.6 * N**-0.34 * worth + 219 * D**-0.34 * worth
            rows.append({"N": N, "D": D, "C": C, "val": loss * np.exp(0.002 * rng.standard_normal()), **columns})
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_two_tables_are_compared_and_refused_in_one_line(tmp_path):
    a = write(tmp_path / "a.csv", 0.5, 0, tokens_per_event=1.0)
    b = write(tmp_path / "b.csv", 1.0, 1, tokens_per_event=1.0)
    out = tmp_path / "compare.json"
    flags = (f"--runs={a}", f"--runs={b}", f"--out={out}", "--columns=loss=val", "--draws=60")
    done = launch(*flags)
    assert done.returncode == 0, done.stderr
    assert "nats a event" not in done.stdout and "nats an event" in done.stdout
    assert "compute of A for the loss of B: x 0." in done.stdout and str(out) in done.stdout
    found = json.loads(out.read_text())
    assert found["unit"] == "event" and found["paired"]["cells"] == 24 and found["paired"]["percent"] < 0
    m = found["multiplier"]
    assert abs(m["value"] - 0.5) < 0.05 and m["interval"][0] < m["value"] < m["interval"][1]
    assert m["verdict"]["word"] == "supported" and found["loss_to_loss"]["verdict"]["word"] == "supported"

    both = tmp_path / "both.csv"  # B, and runs on another corpus
    others = b.read_text().replace(",1.0\n", ",2.0\n").splitlines(keepends=True)[1:]
    both.write_text(b.read_text() + "".join(others))
    flags = (f"--runs={a}", f"--runs={both}", f"--out={out}", "--columns=loss=val", "--draws=60")
    done = launch(*flags, "--where=tokens_per_event=1", "--where=N>0")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == {**found, "b": {**found["b"], "source": "both.csv"}}

    c = write(tmp_path / "c.csv", 1.0, 2)
    for wrong, said in (
        ((flags[0], f"--runs={c}", *flags[2:]), "losses a token of two vocabularies do not compare"),
        (flags[1:], "--runs is given 1 times"),
        ((*flags[:2], f"--out={tmp_path}", *flags[3:]), "is no file in a folder that is there"),
    ):
        done = launch(*wrong)
        assert done.returncode == 1 and "compute of A" not in done.stdout
        assert re.fullmatch(r"error: .*\n", done.stderr) and said in done.stderr
