"""Commands that train a grid on Cloud TPU pods and on Kubernetes, printed for their owner to run."""

import json
import math
import re
import shlex
from typing import Any, NamedTuple

from ehr_scaling.errors import Preempted, UserError
from ehr_scaling.grid.executors import tpus
from ehr_scaling.processes import endings

GRACE = 300  # seconds from SIGTERM until Kubernetes kills: time to save
PORT = 8476
# Exit statuses of a user's mistake, of a command line that cannot be read, and of a mistake of ours: the same however
# often it is tried
COMES_AGAIN = [UserError.status, 2, endings.BROKEN]
TRIES = 6  # after the first, 10 s to 320 s apart: what does not answer may be gone for some minutes
_APART = "alpha.jobset.sigs.k8s.io/exclusive-topology"  # each slice on a node pool of its own
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")  # JobSet's pods have 20 letters more, and 63 at most
_OWN = ("executor", "slurm_", "pod_", "gke_", "dry_run", "status", "watch")


def command(argv: list[str], *more: str) -> list[str]:
    """The launch.sweep that the hosts are to run: `argv` without the flags that only say where."""
    kept, skip = [], False
    for i, argument in enumerate(argv):
        if skip:
            skip = False
            continue
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("-") and name.startswith(_OWN):
            # absl takes "--flag value" as well as "--flag=value"
            skip = "=" not in argument and i + 1 < len(argv) and not argv[i + 1].startswith("-")
            continue
        kept.append(argument)
    return ["python", "-m", "ehr_scaling.launch.sweep", *kept, *more]


_OF_A_SLICE = 4  # chips on each host, of a slice of several


class Slice(NamedTuple):
    """What an accelerator of Google Cloud is made of."""

    chip: tpus.Chip
    hosts: int
    chips: int  # of each host


def slice_of(accelerator: str) -> Slice:
    """What gcloud's `--accelerator-type` stands for. Raises: UserError for one that is not known here."""
    match = re.fullmatch(r"(v\d+\w*)-(\d+)", accelerator)
    chip = next((chip for chip in tpus.CHIPS if match and match[1] == chip.cloud), None)
    if match is None or chip is None:
        known = ", ".join(f"{chip.cloud}-16" for chip in tpus.CHIPS)
        raise UserError(
            f"--pod_accelerator={accelerator} is not known: give a type as gcloud has it, such as {known}, or say by "
            "hand what is to be: --pod_chips, or --distributed"
        )
    n, odd = divmod(int(match[2]), chip.counted)
    chips = n if n <= chip.most else _OF_A_SLICE
    if odd or chips not in tpus.BOUNDS or n % chips:
        raise UserError(f"--pod_accelerator={accelerator}: there is no {chip.cloud} of {match[2]}")
    return Slice(chip, n // chips, chips)


def _alone_on(chips: int, flag: str) -> dict[str, str]:
    """`tpus.alone_on` all chips of a host. Raises: UserError for a number that no host has."""
    if chips not in tpus.BOUNDS:
        raise UserError(f"{flag}={chips}: a host of a TPU has {', '.join(map(str, tpus.BOUNDS))} chips")
    return tpus.alone_on([str(chip) for chip in range(chips)])


def tpu_pod(
    argv: list[str],
    *,
    name: str,
    zone: str,
    project: str | None,
    folder: str,
    chips: int | None = None,
) -> str:
    """The command that trains on all hosts of a TPU VM at once. The work directory must be one they share.

    Args:
      name, of the TPU VM; folder, of this repository on its hosts.
      chips: of a host, where each works for itself, on units of its own, in a process a chip where they fit
        (`cost.workers`); None: all hosts are one program.
    Raises: UserError for a number of chips that no host has.
    """
    if chips is None:
        line = shlex.join(command(argv, *([] if "--distributed" in argv else ["--distributed"])))
    else:
        environment = _alone_on(chips, "--pod_chips")
        told = " ".join(f"{name}={value}" for name, value in environment.items())
        line = f"{told} {shlex.join(command(argv))}"
    inside = f"cd {shlex.quote(folder)} && {line}"
    parts = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", name, f"--zone={zone}"]
    parts += [f"--project={project}"] if project else []
    return shlex.join([*parts, "--worker=all", f"--command={inside}"])


# Of one machine of a slice of several, for a process that is to take it for all there is
_ONE_MACHINE = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}


def machines(topology: str | None, chips: int) -> int:
    """Machines of `chips` TPU chips each that make a slice of this topology."""
    sides = (topology or "").split("x")
    if not all(side.isdigit() for side in sides):  # none, or of a form that GKE will refuse
        return 1
    return max(1, math.prod(map(int, sides)) // max(1, chips))


def chip_of_gke(accelerator: str) -> tpus.Chip | None:
    """The chip of GKE's name of a TPU; None: not known here."""
    return next((chip for chip in tpus.CHIPS if accelerator in chip.gke), None)


def gke_memory(accelerator: str) -> float | None:
    """Bytes of a device, by GKE's name of it; None: not known here."""
    if (chip := chip_of_gke(accelerator)) is not None:
        return chip.memory
    said = re.search(r"-(\d+)gb$", accelerator)
    return float(said[1]) * 1e9 if said else _GPUS.get(accelerator)


_GPUS = {"nvidia-l4": 24e9, "nvidia-tesla-t4": 16e9, "nvidia-tesla-v100": 16e9, "nvidia-tesla-a100": 40e9}


def gke(
    argv: list[str],
    *,
    name: str,
    image: str,
    workdir: str,
    volume: str | None,
    accelerator: str,
    topology: str | None,
    hosts: int,
    chips: int,
    parallel: int = 1,
    slices: int = 1,
    spot: bool = False,
    service_account: str | None = None,
) -> str:
    """A Kubernetes manifest: a Job on one host, a JobSet on several.

    SIGTERM saves; exit status 75 starts it again, and so does whatever may pass (69, or killed for memory), some times;
    a user's error ends it, and one of ours (COMES_AGAIN).

    Args:
      image: with this package and its extra for the accelerator.
      volume: a PersistentVolumeClaim (ReadWriteMany on several hosts), mounted at `workdir`; None where that is in a
        bucket, which pods reach as service_account, Kubernetes' name of one, else as that of their nodes.
      accelerator: GKE's name of it, such as tpu-v5-lite-podslice or nvidia-h100-80gb; topology, of TPUs, such as 4x4.
      hosts, chips: machines that are one program, and devices of each.
      slices: of TPUs, of so many hosts each, that are one program together.
      spot: on machines that may be taken away.
      parallel: machines that each work for themselves and share the units, with one host.
    """
    tpu = accelerator.startswith("tpu")
    if tpu and topology is None:
        raise UserError(f"--gke_accelerator={accelerator} needs --gke_topology, such as 2x4")
    if not _NAME.fullmatch(name):
        raise UserError(f"--gke_name={name}: Kubernetes takes lower case letters, digits and -, at most 40 here")
    if slices < 1 or (slices > 1 and (not tpu or hosts == 1)):
        raise UserError(f"--gke_slices={slices}: slices that are one program are of TPUs, of several --gke_hosts each")
    if min(hosts, chips, parallel) < 1 or (hosts > 1 and parallel > 1):
        raise UserError(
            f"--gke_hosts={hosts} --gke_chips={chips} --gke_parallel={parallel}: give 1 or more of each, and more "
            "than 1 of hosts (which are one program) or of parallel (which are not)"
        )
    line = shlex.join(command(argv))
    if hosts > 1 and tpu:
        line += " --distributed"
    elif hosts > 1:
        coordinator = f"{name}-hosts-0-0.{name}:{PORT}"
        line += f' --coordinator={coordinator} --processes={hosts} --process="$JOB_COMPLETION_INDEX"'
    kind = "google.com/tpu" if tpu else "nvidia.com/gpu"
    selector = {"cloud.google.com/gke-tpu-accelerator" if tpu else "cloud.google.com/gke-accelerator": accelerator}
    if tpu and topology:
        selector["cloud.google.com/gke-tpu-topology"] = topology
    if spot:
        selector["cloud.google.com/gke-spot"] = "true"
    container: dict[str, Any] = {
        "name": "sweep",
        "image": image,
        "command": ["sh", "-c", f"exec {line}"],
        "resources": {"limits": {kind: chips}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "nodeSelector": selector,
        "containers": [container],
    }
    if volume is not None:
        container["volumeMounts"] = [{"name": "workdir", "mountPath": workdir}]
        pod["volumes"] = [{"name": "workdir", "persistentVolumeClaim": {"claimName": volume}}]
    if service_account is not None:
        pod["serviceAccountName"] = service_account
    if tpu and hosts == 1 and machines(topology, chips) > 1:
        alone = _alone_on(chips, "--gke_chips") | _ONE_MACHINE
        container["env"] = [{"name": name, "value": value} for name, value in alone.items()]
    job = {
        "backoffLimit": TRIES,
        # A host that was taken away and has saved is no failure; all other statuses are tried again
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": COMES_AGAIN}},
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [Preempted.status]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            ]
        },
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "template": {"spec": pod},
    }
    if hosts == 1:
        if (
            parallel > 1
        ):  # a work queue to Kubernetes: the Job is done when one has found that all is, and all have ended
            job = {name: value for name, value in job.items() if name not in ("completions", "completionMode")}
            job |= {"parallelism": parallel, "backoffLimit": TRIES * parallel}
        manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job}
    else:
        # All hosts are one program: when one goes, all begin again, and go on from the last checkpoint.
        job |= {"backoffLimit": 0}
        manifest = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": name,
                **({"annotations": {_APART: "cloud.google.com/gke-nodepool"}} if slices > 1 else {}),
            },
            "spec": {
                "failurePolicy": {
                    "maxRestarts": 100,
                    "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
                },
                "replicatedJobs": [{"name": "hosts", "replicas": slices, "template": {"spec": job}}],
            },
        }
    return json.dumps(manifest, indent=2)  # JSON is YAML: kubectl apply -f takes it as it is
