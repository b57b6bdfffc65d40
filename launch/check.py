"""Say what is installed here and what it runs on, and try it: a study of a minute on generated patients, end to end.

  python -m launch.check

Nothing of the study is kept. Ends with status 0 where all of it works.
"""

import math
import shutil
import tempfile
from collections.abc import Collection
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from platform import machine, python_version, system

from ml_collections import ConfigDict

import ehr_scaling
from ehr_scaling import hardware
from ehr_scaling.errors import UserError
from ehr_scaling.progress import Steps

from .common import common

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "pyarrow", "numpy", "scipy")
# A module that each extra brings, for those that a user may want
EXTRAS = {
    "cuda": "jax_cuda13_plugin",
    "tpu": "libtpu",
    "cloud": "gcsfs",
    "slurm": "submitit",
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "beam": "apache_beam",
}


def small() -> ConfigDict:
    """A study of four models that train in a second each."""
    from ehr_scaling.configs import base

    c = base.get_config()
    c.title = "check"
    c.data.patients = 400
    c.data.seed = 3  # of which some of the test split die
    c.data.context = 128  # longer than BLOCKED_FROM, so that attention is by this platform's kernel
    c.data.block = 4
    c.training.batch.exponent = 0.0  # programs of one shape, since most of the time goes into compiling
    c.training.dispatch_sequences = 16
    c.validation.sequences, c.validation.batch = 32, 32
    c.grid.budgets, c.grid.sizes, c.grid.seeds = (3e9, 6e9), ("1.7k",), (0, 1)
    c.outcome.new_tokens, c.outcome.samples, c.outcome.positive_share = 16, 20, 0.3
    c.outcome.train_samples = 100
    c.analysis.draws = 50
    return c


# Of the extras for accelerators: what each is for, and what may be wrong where there is none
ACCELERATORS = {
    "cuda": ("GPU", "does nvidia-smi list one, with a driver from 580 on, as CUDA 13 needs, and is neither "
             "CUDA_VISIBLE_DEVICES empty nor JAX_PLATFORMS=cpu?"),
    "tpu": ("TPU", "is this a TPU VM, has no other process taken it, and is JAX_PLATFORMS not cpu?"),
}  # fmt: skip


def idle(extras: Collection[str], platform: str) -> list[str]:
    """Warnings of accelerators that an extra is installed for, and that JAX has not found."""
    if platform != "cpu":
        return []
    return [
        f"warning: the extra {extra} is installed, but JAX found no {device}: {why}"
        for extra, (device, why) in ACCELERATORS.items()
        if extra in extras
    ]


def about(context: int) -> None:
    """Print versions, devices, the kernel of attention, memory, disk and extras."""
    print(", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES), flush=True)
    there = [name for name, module in EXTRAS.items() if find_spec(module)]
    print(f"extras: {', '.join(there) or 'none'}; not installed: {', '.join(sorted(EXTRAS.keys() - there)) or 'none'}")
    import jax
    import psutil

    from ehr_scaling.models import attention

    devices = jax.devices()
    kinds, platform = sorted({device.device_kind for device in devices}), devices[0].platform
    kernels = {
        dtype: attention.choose("auto", platform=platform, dtype=dtype, head=64, context=context)
        for dtype in ("float32", "bfloat16")
    }
    told = ", ".join(f"{kernel} in {dtype}" for dtype, kernel in kernels.items())
    print(f"devices: {len(devices)} × {', '.join(kinds)}; attention: {told}")
    for warning in idle(there, platform):
        print(warning, flush=True)
    memory, disk = psutil.virtual_memory().available, {"here": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    free = [f"{shutil.disk_usage(folder).free / 1e9:.0f} GB of disk ({name})" for name, folder in disk.items()]
    print(f"{len(hardware.cores())} processors; free: {memory / 1e9:.0f} GB of memory, {', '.join(free)}", flush=True)


def try_it(config: ConfigDict, workdir: Path, steps: Steps) -> None:
    """The whole way of a study in `workdir`. Raises UserError where a model has learnt nothing."""
    from ehr_scaling import study
    from ehr_scaling.configs import base

    steps.say(f"preparing {config.data.patients} generated patients")
    packed = study.prepare(config, workdir)
    steps.say("training four small models")
    study.plan(config, base.sweep(config), workdir)
    uniform = math.log(packed["summary"]["vocab_size"])  # nats a token of a guess
    for metrics in study.train(config, workdir):
        if not metrics["validation_loss"] < 0.9 * uniform:
            raise UserError(f"a model of {metrics['size']} learnt nothing")
    steps.say("simulating futures")
    question = study.score(config, workdir)
    study.write_report(config, workdir, question, steps.say)


def main() -> None:
    here = f"Python {python_version()}, {system()} {machine()}"
    print(f"ehr_scaling {ehr_scaling.__version__} in {Path(ehr_scaling.__file__).parent}; {here}", flush=True)
    config = small()
    about(config.data.context)
    config.workers = min(2, len(hardware.cores()))
    with tempfile.TemporaryDirectory(prefix="ehr_scaling_") as folder, Steps() as steps:
        try_it(config, Path(folder), steps)
    print("it works")


if __name__ == "__main__":
    common.run(main)
