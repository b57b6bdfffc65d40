"""The commands that launch.sweep prints for --executor=tpu-pod and gke, for grids that need all chips or do not."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ehr_scaling.errors import UserError

from . import common

if TYPE_CHECKING:
    from ehr_scaling.grid.executors import pods

POD_NAME = flags.DEFINE_string("pod_name", None, "tpu-pod: the TPU VM.")
POD_ZONE = flags.DEFINE_string("pod_zone", None, "tpu-pod: its zone.")
POD_PROJECT = flags.DEFINE_string("pod_project", None, "tpu-pod: its project [default: gcloud's].")
POD_FOLDER = flags.DEFINE_string("pod_folder", None, "tpu-pod: the folder of this repository on its hosts.")
POD_ACCELERATOR = flags.DEFINE_string(
    "pod_accelerator",
    None,
    "tpu-pod: its type as gcloud has it, such as v5litepod-16. A chip, or a host, then trains units of its own where "
    "the cells of --workdir fit; --distributed: all hosts are one, whatever the grid.",
)
POD_CHIPS = flags.DEFINE_integer(
    "pod_chips", None, "tpu-pod: chips of a host, each of which works for itself, whatever the grid."
)
GKE_NAME = flags.DEFINE_string("gke_name", "sweep", "gke: name of the job.")
GKE_IMAGE = flags.DEFINE_string("gke_image", None, "gke: image that holds this repository with its packages.")
GKE_VOLUME = flags.DEFINE_string(
    "gke_volume", None, "gke: PersistentVolumeClaim that is mounted at --workdir; none where that is in a bucket."
)
GKE_SERVICE_ACCOUNT = flags.DEFINE_string(
    "gke_service_account", None, "gke: of Kubernetes, which may read and write the bucket [default: the namespace's]."
)
GKE_ACCELERATOR = flags.DEFINE_string("gke_accelerator", None, "gke: such as tpu-v5-lite-podslice, nvidia-h100-80gb.")
GKE_TOPOLOGY = flags.DEFINE_string("gke_topology", None, "gke: of TPUs, such as 4x4.")
GKE_HOSTS = flags.DEFINE_integer(
    "gke_hosts",
    None,
    "gke: machines that train as one [default: 1; all of --gke_topology where the cells of"
    " --workdir do not fit one, or where that cannot be told].",
)
GKE_PARALLEL = flags.DEFINE_integer(
    "gke_parallel",
    None,
    "gke: machines that share the units, each for itself [default: 1; all of --gke_topology where the cells fit one].",
)
GKE_SLICES = flags.DEFINE_integer("gke_slices", 1, "gke: slices of TPUs, of --gke_hosts each, that train as one.")
GKE_SPOT = flags.DEFINE_bool("gke_spot", False, "gke: on Spot machines, which may be taken away.")
GKE_CHIPS = flags.DEFINE_integer("gke_chips", 1, "gke: devices of a machine.")

UNTOLD = "it cannot be told whether less is enough, since"


def command(executor: str) -> str:
    """What --executor=tpu-pod or gke prints; what was chosen by the grid, and why, goes to stderr in one line."""
    if executor == "tpu-pod":
        return _tpu_pod()
    return _gke()


def _needed(executor: str, flag: "flags.FlagHolder[str | None]") -> str:
    if not flag.value:
        raise UserError(f"--executor={executor} needs --{flag.name}: {flags.FLAGS[flag.name].help}")
    return flag.value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _in_bucket() -> bool:
    return "://" in (flags.FLAGS.workdir or "")


def _place(kind: str, memory: float, devices: int) -> tuple[str, str]:
    """Where a unit of the grid of --workdir is trained, and why, as `cost.place` has it for hosts of so many devices;
    ("", why that cannot be told) where there are no prepared data here to plan it of.

    Raises: UserError where there are, and the grid cannot be planned: the hosts would say the same.
    """
    if not _in_bucket() and not Path(flags.FLAGS.workdir).is_dir():
        return "", f"{flags.FLAGS.workdir} is not on this machine"
    _say(f"looking at the grid of {flags.FLAGS.workdir}")
    config, points, workdir = common.read_flags()
    # Not above: what needs no grid needs no JAX.
    from ehr_scaling import study
    from ehr_scaling.data import pipeline
    from ehr_scaling.grid import cost

    try:
        for fraction in {float(point.get("fraction", 1.0)) for point in points}:
            pipeline.packed_record(config.data, workdir, fraction)
    except UserError as e:
        return "", str(e)
    with contextlib.redirect_stdout(sys.stderr):
        cells = study.plan(config, points, workdir)
    one = cost.Machine("tpu" if kind.startswith("TPU") else "gpu", kind, 1, memory)
    where, why = cost.place(cells, one, devices)
    if where == "device" and config.workers:  # each host's own choice otherwise, by the same rule
        return "device" if config.workers > 1 else "host", f"--config.workers={config.workers}"
    return where, why


def _tpu_pod() -> str:
    from ehr_scaling.grid.executors import pods

    if flags.FLAGS.workdir is None:
        raise UserError("--executor=tpu-pod needs --workdir: a bucket, or a folder that all hosts see, as by NFS")
    chips, together = POD_CHIPS.value, flags.FLAGS.distributed
    if together and chips is not None:
        raise UserError(f"--pod_chips={chips} lets each host work for itself, --distributed makes all one: give one")
    where: dict[str, Any] = {
        "name": _needed("tpu-pod", POD_NAME),
        "zone": _needed("tpu-pod", POD_ZONE),
        "folder": _needed("tpu-pod", POD_FOLDER),
        "project": POD_PROJECT.value,
    }
    if chips is not None:
        _say("a unit a host, or a chip where the host finds that it fits: --pod_chips")
    elif together:
        _say("a unit on all hosts together: --distributed")
    elif POD_ACCELERATOR.value:
        chips = _by_grid(pods.slice_of(POD_ACCELERATOR.value))
    else:
        _say(f"a unit on all hosts together: {UNTOLD} --pod_accelerator does not say of which chips they are")
    return pods.tpu_pod(sys.argv[1:], chips=chips, **where)


def _by_grid(slice_: "pods.Slice") -> int | None:
    """Chips of a host that works for itself; None: all hosts are one program."""
    chip, hosts, chips = slice_
    where, why = _place(chip.kind, chip.memory, chips)
    if where == "device":
        _say(f"a unit a chip, on {hosts} × {chips}: {why}")
    elif where == "host" or hosts == 1:
        _say(f"a unit a host, on its {chips} chips: {why}")
    elif where == "all":
        _say(f"a unit on all hosts together (--distributed): {why}")
        return None
    else:
        _say(
            f"a unit on all hosts together (--distributed): {UNTOLD} {why}; --pod_chips={chips} makes it a unit a host"
        )
        return None
    return chips


def _gke() -> str:
    from ehr_scaling.grid.executors import pods

    workdir = flags.FLAGS.workdir
    if workdir is None:
        raise UserError(
            "--executor=gke needs --workdir: a bucket, or the folder in the container where --gke_volume is mounted"
        )
    if _in_bucket() and GKE_VOLUME.value:
        raise UserError("--gke_volume is mounted at --workdir: give that folder, or the bucket without --gke_volume")
    about: dict[str, Any] = {
        "name": GKE_NAME.value,
        "image": _needed("gke", GKE_IMAGE),
        "workdir": workdir,
        "volume": None if _in_bucket() else _needed("gke", GKE_VOLUME),
        "service_account": GKE_SERVICE_ACCOUNT.value,
        "accelerator": _needed("gke", GKE_ACCELERATOR),
        "topology": GKE_TOPOLOGY.value,
        "chips": GKE_CHIPS.value,
        "slices": GKE_SLICES.value,
        "spot": GKE_SPOT.value,
    }
    hosts, parallel = _gke_machines(about["accelerator"])
    return pods.gke(sys.argv[1:], hosts=hosts, parallel=parallel, **about)


def _gke_machines(accelerator: str) -> tuple[int, int]:
    """Machines that train as one, and those that each work for themselves; by hand, or by the grid.

    Says which, and of machines that train as one for nothing how they need not.
    """
    from ehr_scaling.grid.executors import pods

    hosts, parallel, chips = GKE_HOSTS.value, GKE_PARALLEL.value, max(1, GKE_CHIPS.value)
    memory, chip = pods.gke_memory(accelerator), pods.chip_of_gke(accelerator)
    in_slice = pods.machines(GKE_TOPOLOGY.value, chips) if accelerator.startswith("tpu") else 1
    if parallel is not None or hosts == 1 or GKE_SLICES.value > 1:
        return hosts or 1, parallel or 1
    where, why = "", f"the memory of {accelerator} is not known here"
    if memory is not None:
        where, why = _place(chip.kind if chip else accelerator, memory, chips)
    fits = where in ("device", "host")
    on = "a device" if where == "device" else f"a machine of {chips} devices"
    if hosts is not None:
        if fits:
            alone = f"--gke_parallel={hosts} instead of --gke_hosts={hosts} makes it a unit {on}"
            _say(f"{hosts} machines train each unit together, which fits {on}: {why}; {alone}")
        return hosts, 1
    if in_slice == 1:
        if where == "all":
            _say(f"a unit may not fit this machine, --gke_hosts makes several one: {why}")
        return 1, 1
    if fits:
        _say(f"a unit {on}, {in_slice} machines that work for themselves: {why}")
        return 1, in_slice
    untold = "" if where else f"{UNTOLD} "
    _say(f"{in_slice} machines train each unit together (--gke_hosts={in_slice}): {untold}{why}")
    return in_slice, 1
