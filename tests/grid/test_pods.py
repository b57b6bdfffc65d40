"""Printed commands hold the sweep's own flags, and what a shell or Kubernetes makes of them is that sweep."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ehr_scaling.errors import UserError
from ehr_scaling.grid.executors import pods

ARGV = ["--config=configs/mimic_iv.py", "--workdir=/mnt/my study", "--config.grid.seeds=(1,2)", "--executor=gke"]
ARGV += ["--pod_name", "v5e", "--gke_hosts=4", "--slurm_setup=module load cuda"]
KEPT = ARGV[:3]
GKE = {"name": "sweep", "image": "registry/image", "workdir": Path("/mnt/my study"), "volume": "claim"}


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
    assert inside[5:] == ["TPU_VISIBLE_CHIPS=0,1,2,3", "TPU_VISIBLE_DEVICES=0,1,2,3", *pods.command(ARGV)]
    with pytest.raises(UserError, match="--pod_chips=3: a host of a TPU has 1, 4, 8 chips"):
        pods.tpu_pod(ARGV, chips=3, **where)


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
    failing = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}}
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
        (["--executor=tpu-pod", "--workdir=gs://b/w"], "a --workdir on a file system that they share: give that, or"),
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
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *flags], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line
