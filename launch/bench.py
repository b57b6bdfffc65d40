"""Measure a part of the project: `python -m launch.bench data|training|accelerator|outcomes|analysis|coverage`.

Prints a table, each figure the median of --repeats runs, with something to compare it with from the same run. A figure
depends on the machine and on what else it does: trust ratios before absolutes.
"""

import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import flags

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # what is measured has processes of its own

from ehr_scaling import hardware
from ehr_scaling.errors import UserError

from .benchmarks import flags as bench_flags
from .benchmarks.rows import Row, row, seconds
from .common import common

flags.adopt_module_key_flags(bench_flags)
JSON = flags.DEFINE_string("json", None, "File for the rows, as JSON.")


def data() -> Iterator[Row]:
    """Generated patients to events; then from MIMIC-IV's files to packed shards, and batches from them."""
    from ehr_scaling.data.sources import synthetic

    from .benchmarks import data as part

    patients = 20_000

    def generate() -> None:
        with tempfile.TemporaryDirectory() as folder:
            synthetic.extract(None, Path(folder), seed=0, patients=patients)

    yield row("generate patients, write events", patients / seconds(generate), "patients/s", patients / 30)
    yield from part.rows(bench_flags.REPEATS.value)


def training() -> Iterator[Row]:
    """The engine beside PyTorch, models together, an interruption, and where a grid's wall time goes."""
    from .benchmarks import training as part

    yield from part.rows()


def accelerator() -> Iterator[Row]:
    """The engine on a GPU or TPU: MFU, and beside PyTorch on the same one."""
    from .benchmarks import accelerator as part

    yield from part.rows()


def outcomes() -> Iterator[Row]:
    """Tokens drawn a second, what a shared prompt is worth, and the variance of the estimators."""
    from .benchmarks import outcomes as part

    yield from part.rows()


def analysis() -> Iterator[Row]:
    """Joint laws against published fits of public run tables, their speed, and what they forecast."""
    from .benchmarks import analysis as part

    yield from part.rows()


def coverage() -> Iterator[Row]:
    """How often 95 % intervals hold a known truth, on simulated runs."""
    from .benchmarks import coverage as part

    yield from part.rows()


def machine() -> str:
    import jax

    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0] if names else platform.machine()}, {len(hardware.cores())} cores"
    kinds = sorted({device.device_kind for device in jax.devices()} - {"cpu"})
    devices = f", {jax.device_count()} × {', '.join(kinds)}" if kinds else ", no accelerator"
    return f"{processor}{devices}; Python {platform.python_version()}, JAX {jax.__version__}"


PARTS = {
    "data": data,
    "training": training,
    "accelerator": accelerator,
    "outcomes": outcomes,
    "analysis": analysis,
    "coverage": coverage,
}


def main(part: str) -> None:
    if JSON.value and not Path(JSON.value).absolute().parent.is_dir():
        raise UserError(f"--json={JSON.value}: the folder that it should be in is not there: make it, or name another")
    rows = []
    print(f"measuring {part}", flush=True)
    print(f"{part} on {machine()}\n\n| | value | unit | target | ok |\n|---|---|---|---|---|", flush=True)
    for r in PARTS[part]():
        rows.append(r)
        target = "" if r["target"] is None else f"{r['target']:.4g}"
        ok = {None: "", True: "yes", False: "**no**"}[r["ok"]]
        print(f"| {r['name']} | {r['value']:.4g} | {r['unit']} | {target} | {ok} |", flush=True)
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    common.run(main, {"--raw": "--mimic_demo", "--runs": "--tables"}, PARTS)
