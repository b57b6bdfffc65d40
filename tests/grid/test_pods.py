"""Printed commands hold the sweep's own flags, and what a shell or Kubernetes makes of them is that sweep."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import small

from ehr_scaling.errors import Preempted, UserError
from ehr_scaling.grid.executors import pods
from tests import buckets, forked

ARGV = ["--config=configs/mimic_iv.py", "--workdir=/mnt/my study", "--config.grid.seeds=(1,2)", "--executor=gke"]
ARGV += ["--pod_name", "v5e", "--gke_hosts=4", "--slurm_setup=module load cuda"]
KEPT = ARGV[:3]
PLACE = ["--executor=tpu-pod", "--workdir=/w", "--pod_name=a", "--pod_zone=b", "--pod_folder=/c"]
GKE = {"name": "sweep", "image": "registry/image", "workdir": "/mnt/my study", "volume": "claim"}


def test_flags_that_say_where_are_left_out():
    assert pods.command(ARGV) == ["python", "-m", "ehr_scaling.launch.sweep", *KEPT]


def test_tpu_pod_runs_the_sweep_on_every_host():
    told = pods.tpu_pod(ARGV, name="v5e", zone="us-east5-a", project=None, folder="/srv/ehr scaling")
    parts = shlex.split(told)
    assert parts[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "v5e"]
    assert parts[6:8] == ["--zone=us-east5-a", "--worker=all"]
    inside = parts[8].removeprefix("--command=")
    assert shlex.split(inside) == ["cd", "/srv/ehr scaling", "&&", *pods.command(ARGV), "--distributed"]


def test_hosts_of_a_pod_that_work_for_themselves_see_their_own_chips():
    where = {"name": "v5e", "zone": "us-east5-a", "project": None, "folder": "/srv"}
    inside = shlex.split(shlex.split(pods.tpu_pod(ARGV, chips=4, **where))[8].removeprefix("--command="))
    assert inside[3:5] == ["TPU_PROCESS_BOUNDS=1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1"]
    assert inside[5:7] == ["TPU_HOST_BOUNDS=1,1,1", "TPU_CHIPS_PER_HOST_BOUNDS=2,2,1"]
    assert inside[7:] == ["TPU_VISIBLE_CHIPS=0,1,2,3", "TPU_VISIBLE_DEVICES=0,1,2,3", *pods.command(ARGV)]
    assert "TPU_CHIPS_PER_PROCESS_BOUNDS=2,4,1 " in pods.tpu_pod(ARGV, chips=8, **where)
    with pytest.raises(UserError, match="--pod_chips=3: a host of a TPU has 1, 4, 8 chips"):
        pods.tpu_pod(ARGV, chips=3, **where)


@pytest.mark.parametrize(
    ("accelerator", "kind", "hosts", "chips"),
    [
        ("v4-8", "TPU v4", 1, 4),
        ("v4-32", "TPU v4", 4, 4),
        ("v5litepod-1", "TPU v5 lite", 1, 1),
        ("v5litepod-8", "TPU v5 lite", 1, 8),
        ("v5litepod-16", "TPU v5 lite", 4, 4),
        ("v5p-128", "TPU v5", 16, 4),
        ("v6e-256", "TPU v6 lite", 64, 4),
    ],
)
def test_types_of_accelerators_say_chips_and_hosts(accelerator, kind, hosts, chips):
    told = pods.slice_of(accelerator)
    assert (told.chip.kind, told.hosts, told.chips) == (kind, hosts, chips)


@pytest.mark.parametrize(
    "accelerator", ["v5litepod", "v9-8", "v4-7", "v4-9", "v5litepod-3", "v6e-18", "v4-0", "tpu-v4-podslice"]
)
def test_types_that_are_not_known_are_refused(accelerator):
    with pytest.raises(UserError, match=rf"--pod_accelerator={accelerator}"):
        pods.slice_of(accelerator)


def test_memory_of_a_device_is_known_by_its_name():
    names = ["tpu-v5-lite-podslice", "tpu-v6e-slice", "nvidia-h100-80gb", "nvidia-l4", "nvidia-b200"]
    assert [pods.gke_memory(name) for name in names] == [16e9, 32e9, 80e9, 24e9, None]


def test_machines_of_a_slice_that_work_for_themselves_see_their_own_chips():
    tpu = {"accelerator": "tpu-v5-lite-podslice", "topology": "4x4", "chips": 4, "hosts": 1}
    told = json.loads(pods.gke(ARGV, **GKE, **tpu, parallel=4))
    assert told["kind"] == "Job" and told["spec"]["parallelism"] == 4
    (container,) = told["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["TPU_PROCESS_BOUNDS"] == "1,1,1" and environment["TPU_VISIBLE_CHIPS"] == "0,1,2,3"
    assert (environment["TPU_WORKER_HOSTNAMES"], environment["TPU_WORKER_ID"]) == ("localhost", "0")
    assert shlex.split(container["command"][2])[1:] == pods.command(ARGV)
    for other in ({"topology": "2x2", "parallel": 4}, {"hosts": 4}):  # a slice each; one program
        told = pods.gke(ARGV, **GKE, **{**tpu, **other})
        assert "TPU_VISIBLE_CHIPS" not in told
    with pytest.raises(UserError, match="--gke_chips=2: a host of a TPU has 1, 4, 8 chips"):
        pods.gke(ARGV, **GKE, **{**tpu, "chips": 2})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A work directory, and the flags of its grid of four small cells."""
    workdir = tmp_path_factory.mktemp("pods") / "w"
    small.prepare(workdir)
    flags = ["--config.data.patients=300", "--config.data.context=64", "--config.data.block=4"]
    flags += ["--config.grid.budgets=(1.2e9,)", "--config.grid.sizes=('1.7k','3.5k')", "--config.grid.seeds=(0,1)"]
    return [*flags, f"--workdir={workdir}"]


TIGHT = """
import runpy, sys
from ehr_scaling.finished_models import warm_start
from ehr_scaling.grid.executors import tpus
memory = float(sys.argv.pop(1))
tpus.CHIPS = tuple(chip._replace(memory=memory) for chip in tpus.CHIPS)
take = warm_start.take
warm_start.take = lambda *of: print("a stage says something") or take(*of)
runpy.run_module("launch.sweep", run_name="__main__", alter_sys=True)
"""


def told(*flags, memory=16e9):
    """What launch.sweep prints, on chips of so many bytes, and the line that says why."""
    code = [sys.executable, "-c", TIGHT, str(memory), *flags]
    done = forked.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *before, line = done.stderr.splitlines()
    assert all(one.startswith("looking at the grid of ") or one == "a stage says something" for one in before)
    return done.stdout, line


POD = ["--executor=tpu-pod", "--pod_name=a", "--pod_zone=b", "--pod_folder=/c"]
ON_GKE = ["--executor=gke", "--gke_image=i", "--gke_volume=v", "--gke_chips=4"]
MESH = "--config.training.mesh.fsdp"


def test_small_cells_are_trained_a_chip_each_and_large_ones_by_all_hosts(prepared):
    flags = [*POD, *prepared, "--pod_accelerator=v5litepod-16"]
    command, line = told(*flags)
    assert "TPU_VISIBLE_CHIPS=0,1,2,3" in command and "--distributed" not in command
    assert re.fullmatch(r"a unit a chip, on 4 × 4: of the largest cells, .* of the 16\.0 GB of TPU v5 lite .*", line)
    command, line = told(*flags, f"{MESH}=4")
    assert "TPU_VISIBLE_CHIPS=0,1,2,3" in command and "--distributed" not in command
    assert line.startswith("a unit a host, on its 4 chips: ") and "cut over 4 devices" in line
    command, line = told(*flags, f"{MESH}=16")
    assert "--distributed" in command and "TPU_VISIBLE_CHIPS" not in command
    assert line.startswith("a unit on all hosts together (--distributed): ") and "cut over 16 devices" in line
    command, line = told(*flags, memory=1e5)
    assert "--distributed" in command and "may be off by a factor of 2" in line


def test_one_host_needs_no_other(prepared):
    command, line = told(*POD, *prepared, "--pod_accelerator=v5litepod-8", memory=1e5)
    assert "TPU_VISIBLE_CHIPS=0,1,2,3,4,5,6,7" in command and "--distributed" not in command
    assert line.startswith("a unit a host, on its 8 chips: ")


def test_what_is_asked_for_by_hand_is_done(prepared, tmp_path):
    flags = [*POD, *prepared, "--pod_accelerator=v5litepod-16"]
    command, line = told(*flags, "--pod_chips=8")
    assert "TPU_CHIPS_PER_PROCESS_BOUNDS=2,4,1" in command
    assert line.endswith("--pod_chips")
    _, line = told(*flags, "--config.workers=1")
    assert line == "a unit a host, on its 4 chips: --config.workers=1"
    command, line = told(*flags, "--distributed")
    assert command.count("--distributed") == 1 and line == "a unit on all hosts together: --distributed"


def test_a_grid_that_is_not_here_is_trained_by_all_hosts(prepared, tmp_path):
    command, line = told(*POD, "--workdir=/not/here", "--pod_accelerator=v5litepod-16")
    assert "--distributed" in command
    assert "cannot be told" in line and "/not/here is not on this machine; --pod_chips=4 makes it a unit a host" in line
    command, line = told(*POD, f"--workdir={tmp_path}", "--pod_accelerator=v5litepod-16")
    assert "--distributed" in command and "prepare the data" in line and not list(tmp_path.iterdir())
    command, line = told(*POD, *prepared)
    assert "--distributed" in command and line.endswith("--pod_accelerator does not say of which chips they are")


def test_a_grid_that_the_hosts_would_refuse_is_refused(prepared):
    flags = [*POD, *prepared, "--pod_accelerator=v5litepod-16"]
    told(*flags)
    refused("sweep", [*flags, "--config.training.clip=7.0"], "grid was made from other inputs")


def test_machines_of_a_cluster_work_for_themselves_where_cells_fit_one(prepared):
    tpu = [*ON_GKE, *prepared, "--gke_accelerator=tpu-v5-lite-podslice", "--gke_topology=4x4"]
    manifest, line = told(*tpu)
    job = json.loads(manifest)
    assert job["kind"] == "Job" and job["spec"]["parallelism"] == 4
    assert line.startswith("a unit a device, 4 machines that work for themselves: of the largest cells, ")
    manifest, line = told(*tpu, f"{MESH}=4")
    assert json.loads(manifest)["spec"]["parallelism"] == 4
    assert line.startswith("a unit a machine of 4 devices, 4 machines that work for themselves: ")
    manifest, line = told(*tpu, f"{MESH}=16")
    assert json.loads(manifest)["kind"] == "JobSet" and "--distributed" in manifest
    assert re.fullmatch(r"4 machines train each unit together \(--gke_hosts=4\): 1.7k is cut over 16 devices .*", line)
    manifest, line = told(*ON_GKE, "--workdir=/not/here", *tpu[-2:])
    assert json.loads(manifest)["kind"] == "JobSet" and "cannot be told" in line and "not on this machine" in line


def test_machines_that_train_as_one_for_nothing_are_said(prepared):
    gpu = [*ON_GKE, *prepared, "--gke_accelerator=nvidia-h100-80gb"]
    manifest, line = told(*gpu, "--gke_hosts=4")
    assert json.loads(manifest)["kind"] == "JobSet"
    assert line.startswith("4 machines train each unit together, which fits a device: of the largest cells, ")
    assert line.endswith("; --gke_parallel=4 instead of --gke_hosts=4 makes it a unit a device")
    manifest, line = told(*gpu, f"{MESH}=16")
    assert json.loads(manifest)["kind"] == "Job"
    assert line.startswith("a unit may not fit this machine, --gke_hosts makes several one: ")


def test_a_work_directory_in_a_bucket_needs_no_volume(tmp_path):
    bucket = f"--workdir={buckets.url('file', tmp_path)}"
    command, _ = told(*POD, bucket)
    assert "--distributed" in command and bucket in command
    gke = ["--executor=gke", "--gke_image=i", "--gke_accelerator=tpu-v5-lite-podslice", "--gke_topology=4x4", bucket]
    manifest, _ = told(*gke, "--gke_chips=4", "--gke_service_account=trainer")
    (job,) = json.loads(manifest)["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    assert "volumes" not in pod and "volumeMounts" not in pod["containers"][0]
    assert bucket in pod["containers"][0]["command"][2]
    refused("sweep", [*gke, "--gke_volume=v"], "--gke_volume is mounted at --workdir: give that folder, or the bucket")


def test_machines_that_share_the_units_are_one_job():
    card = {"accelerator": "nvidia-h100-80gb", "topology": None, "chips": 1}
    told = json.loads(pods.gke(ARGV, **GKE, **card, hosts=1, parallel=8))
    assert told["kind"] == "Job" and told["spec"]["parallelism"] == 8 and "completions" not in told["spec"]
    (container,) = told["spec"]["template"]["spec"]["containers"]
    assert shlex.split(container["command"][2])[1:] == pods.command(ARGV)
    with pytest.raises(UserError, match=r"--gke_hosts=2 --gke_chips=1 --gke_parallel=2: .* more than 1 of hosts"):
        pods.gke(ARGV, **GKE, **card, hosts=2, parallel=2)


def test_one_host_is_a_job_and_several_are_one_program():
    one = json.loads(pods.gke(ARGV, **GKE, accelerator="nvidia-h100-80gb", topology=None, hosts=1, chips=8))
    assert one["kind"] == "Job"
    pod = one["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert pod["containers"][0]["volumeMounts"] == [{"name": "workdir", "mountPath": "/mnt/my study"}]
    assert shlex.split(pod["containers"][0]["command"][2])[1:] == pods.command(ARGV)
    assert {"operator": "In", "values": [75]} in [
        rule.get("onExitCodes") for rule in one["spec"]["podFailurePolicy"]["rules"]
    ]
    failing = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2, 70]}}
    assert one["spec"]["podFailurePolicy"]["rules"][0] == failing
    several = json.loads(pods.gke(ARGV, **GKE, accelerator="nvidia-h100-80gb", topology=None, hosts=4, chips=8))
    ending = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert several["spec"]["failurePolicy"] == {"maxRestarts": 100, "rules": [ending]}
    assert several["kind"] == "JobSet"
    job = several["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (4, 4)
    line = job["template"]["spec"]["containers"][0]["command"][2]
    told = subprocess.run(
        ["sh", "-c", line.replace("exec python", f"exec {sys.executable} -c 'import sys; print(sys.argv[-3:])'")],
        env={"JOB_COMPLETION_INDEX": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "['--coordinator=sweep-hosts-0-0.sweep:8476', '--processes=4', '--process=2']"


ENDS = """
import errno, sys
from ehr_scaling.errors import Diverged, Preempted, RunFailed, Unavailable, UserError
from ehr_scaling.storage import bucket, leases, mirror
from launch.common import common

def unreachable():
    bucket.time.sleep = lambda seconds: None
    store = bucket.Bucket("file:///nowhere")
    def find(*args, **options):
        raise ConnectionResetError("reset by peer")
    store._fs.find = find
    store.list("")

def taken_over():
    leases.any_lost = lambda patience=0.0: True
    mirror._may_write("runs/a")

def not_joined(error):
    import jax
    def initialize(*args, **options):
        raise error
    jax.distributed.initialize = initialize
    common.define_process_flags()
    common.flags.FLAGS(["x", "--distributed"])
    common.join_processes()

def runtime(said):
    import jax
    raise jax.errors.JaxRuntimeError(said)

def error(e):
    raise e

how, sys.argv[1:] = sys.argv[1], []
common.run(lambda: eval(how))
"""


@pytest.mark.parametrize(
    ("how", "status"),
    {
        "error(UserError('mend this'))": 1,
        "error(RunFailed('all of them'))": 1,
        "error(Diverged('nan', 'c'))": 1,
        "error(OSError(errno.ENOSPC, 'x'))": 1,
        "error(PermissionError(errno.EACCES, 'x'))": 1,
        "error(MemoryError())": 1,
        "runtime('RESOURCE_EXHAUSTED: Out of memory')": 1,
        "not_joined(ValueError('coordinator_address should be defined.'))": 1,
        "common.parse(['x', '--nothing_like_this'])": 2,
        "error(ZeroDivisionError())": 70,
        "runtime('INVALID_ARGUMENT: shapes')": 70,
        "error(Unavailable('later'))": 69,
        "error(OSError(errno.EIO, 'x'))": 69,
        "error(OSError(errno.ESTALE, 'x'))": 69,
        "error(OSError(errno.ENOTCONN, 'x'))": 69,
        "error(OSError(errno.ETIMEDOUT, 'x'))": 69,
        "error(OSError(errno.EHOSTDOWN, 'x'))": 69,
        "unreachable()": 69,
        "taken_over()": 69,
        "not_joined(RuntimeError('Getting metadata failed for 6 tries'))": 69,
        "runtime('UNAVAILABLE: socket closed')": 69,
        "runtime('INTERNAL: the device is gone')": 69,
        "error(RuntimeError(\"Unable to initialize backend 'tpu': ABORTED: in use by process 7\"))": 69,
        "error(ConnectionRefusedError('x'))": 69,
        "error(Preempted('saved'))": 75,
    }.items(),
)
def test_what_may_pass_is_tried_again_and_what_comes_again_is_not(how, status):
    """From the error to the status that the process ends with, and to what Kubernetes makes of that."""
    done = forked.run([sys.executable, "-c", ENDS, how], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("error: ") != ("Traceback" in done.stderr)  # a line, or a trace
    card = {"accelerator": "nvidia-h100-80gb", "topology": None, "chips": 1}
    expected = "Ignore" if status == Preempted.status else "count" if status == 69 else "FailJob"
    for machines in ({"hosts": 1}, {"hosts": 1, "parallel": 3}, {"hosts": 4}):
        manifest = json.loads(pods.gke(ARGV, **GKE, **card, **machines))
        assert made_of(manifest, status) == expected
        assert made_of(manifest, 137) == "count"  # killed, as a rule for lack of memory


def made_of(manifest, status):
    """What becomes of a pod that ends with a status: the Job, or the JobSet, fails for good ("FailJob"), or the pod is
    tried again, which counts towards the limit, or does not ("Ignore")."""
    spec = manifest["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"] if manifest["kind"] == "JobSet" else spec
    for rule in job["podFailurePolicy"]["rules"]:
        if status in rule.get("onExitCodes", {}).get("values", ()):
            return rule["action"]
    if manifest["kind"] == "JobSet":  # one pod that fails fails its Job, but by no rule of these: all begin again
        fails = [reason for rule in spec["failurePolicy"]["rules"] for reason in rule["onJobFailureReasons"]]
        assert fails == ["PodFailurePolicy"] and spec["failurePolicy"]["maxRestarts"] > 0
    else:
        assert job["backoffLimit"] >= 6 * job["parallelism"]
    return "count"


@pytest.mark.parametrize("name", ["My study", "-a", "a" * 41, "a;reboot"])
def test_names_are_those_of_kubernetes(name):
    with pytest.raises(UserError, match=r"--gke_name=.*: Kubernetes takes lower case letters"):
        pods.gke(ARGV, **GKE | {"name": name}, accelerator="nvidia-h100-80gb", topology=None, hosts=1, chips=1)


def test_tpus_need_their_topology():
    with pytest.raises(UserError, match="needs --gke_topology"):
        pods.gke(ARGV, **GKE, accelerator="tpu-v5-lite-podslice", topology=None, hosts=4, chips=4)
    told = json.loads(pods.gke(ARGV, **GKE, accelerator="tpu-v5-lite-podslice", topology="4x4", hosts=4, chips=4))
    pod = told["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["command"][2].endswith(" --distributed")
    assert "annotations" not in told["metadata"] and "cloud.google.com/gke-spot" not in pod["nodeSelector"]
    where = {"accelerator": "tpu-v5-lite-podslice", "topology": "4x4", "hosts": 4, "chips": 4}
    told = json.loads(pods.gke(ARGV, **GKE, **where, slices=2, spot=True))
    assert told["metadata"]["annotations"] == {pods._APART: "cloud.google.com/gke-nodepool"}
    (hosts,) = told["spec"]["replicatedJobs"]
    assert hosts["replicas"] == 2 and hosts["template"]["spec"]["parallelism"] == 4
    assert hosts["template"]["spec"]["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    with pytest.raises(UserError, match=r"--gke_slices=2: .* of several --gke_hosts each"):
        pods.gke(ARGV, **GKE, **{**where, "hosts": 1}, slices=2)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--executor=cloud"], "value should be one of"),
        (["--executor=tpu-pod"], "--executor=tpu-pod needs --workdir: "),
        (["--executor=tpu-pod", "--workdir=/w"], "--executor=tpu-pod needs --pod_name: "),
        (["--executor=tpu-pod", "--workdir=gs://b/w", "--pod_chips=4", "--pod_name=a"], "needs --pod_zone"),
        (["--executor=tpu-pod", "--workdir=/w", "--pod_chips=4", "--distributed"], "makes all one: give one"),
        ([*PLACE, "--pod_accelerator=v9-8"], "--pod_accelerator=v9-8 is not known: give a type as gcloud has it"),
        (["--executor=gke", "--workdir=/w", "--gke_image=i"], "--executor=gke needs --gke_volume"),
        (["--executor=gke"], "needs --workdir"),
        (["--executor=slurm"], "--executor=slurm needs --slurm_time"),
        (["--coordinator=localhost:1"], "--coordinator, --processes and --process go together"),
    ],
)
def test_bad_input_ends_in_one_clear_line(flags, expected, tmp_path):
    refused("sweep", flags, expected)


def test_scoring_in_a_queue_needs_its_limit(tmp_path):
    flags = [f"--workdir={tmp_path}", "--executor=slurm"]
    refused("evaluate", flags, "--executor=slurm needs --slurm_time")


def refused(command, flags, expected):
    done = forked.run([sys.executable, "-m", f"launch.{command}", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line
