"""Chips of a host are found without JAX, and workers get one each where what they train fits. No test has a TPU: its
host's folders and variables stand for it."""

import os
import re
import sys

import jax
import pytest
import small
from jobs import units

from ehr_scaling import hardware
from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells, cost, executors
from ehr_scaling.grid.executors import processes, tpus
from tests import forked

V5E, V6E = tpus.CHIPS[1], tpus.CHIPS[3]
PACKED = {
    "fingerprint": "0123456789abcdef",
    "summary": {
        "vocab_size": 250,
        "context": 128,
        "splits": {"train": {"real_tokens": 1_000_000, "patients": 5_000, "phases": [{"sequences": 8_000}]}},
    },
}


def cell(size="25k", seed=0, budget=1e12, **changes):
    return cells.solve(small.config(**changes), {"budget": budget, "size": size, "seed": seed}, PACKED, small.ABOUT)


def machine(root, *devices, files=(), maker="0x1ae0"):
    """A host's folders of devices: PCI numbers and files."""
    for n, device in enumerate(devices):
        folder = root / "sys/bus/pci/devices" / f"0000:00:{n:02x}.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{maker}\n")
        (folder / "device").write_text(f"{device}\n")
    for file in files:
        (root / "dev" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / file).write_text("")
    return root


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Makes this process think that it is on a host of these devices, with what JAX needs for them."""
    for name in ("JAX_PLATFORMS", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES", "TPU_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tpus, "_knows_tpu", lambda: True)
    monkeypatch.setattr(tpus, "taken", lambda: False)

    def of(*devices, **about):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        monkeypatch.setattr(tpus, "ROOT", machine(root, *devices, **about))

    return of


def vfio(n):
    return ["vfio/vfio", *(f"vfio/{i}" for i in range(n))]


def test_chips_are_those_of_the_machine(host, monkeypatch, tmp_path):
    host(*["0x0063"] * 4, files=vfio(4))
    assert tpus.here() == (V5E, ["0", "1", "2", "3"])
    host(*["0x005e"] * 4, "0x1234", files=[f"accel{i}" for i in range(4)])  # and a network card of Google's
    assert tpus.here()[0].kind == "TPU v4" and len(tpus.here()[1]) == 4
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "1,3")
    assert tpus.here()[1] == ["1", "3"]
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "all")
    assert tpus.here() == (None, [])


def test_no_chip_is_guessed(host, monkeypatch):
    none = (None, [])
    host()
    assert tpus.here() == none  # a CPU, or GPUs
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,1,2,3")
    assert tpus.here() == none
    monkeypatch.delenv("TPU_VISIBLE_CHIPS")
    host(*["0x0063"] * 4, files=vfio(4), maker="0x10de")  # GPUs handed on by vfio
    assert tpus.here() == none
    host(*["0x0063"] * 4, files=vfio(1))  # a container with one of four
    assert tpus.here() == none
    host(*["0x0076"] * 4, files=vfio(4))  # of a kind that is not known here
    assert tpus.here() == none
    host("0x0063", "0x006f", files=vfio(2))
    assert tpus.here() == none
    host(*["0x0063"] * 4, files=vfio(4))
    assert tpus.here() != none
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert tpus.here() == none
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert tpus.here() != none
    monkeypatch.setattr(tpus, "_knows_tpu", lambda: False)
    assert tpus.here() == none


def test_jax_has_what_it_needs_where_its_library_is(monkeypatch, tmp_path):
    monkeypatch.setattr(tpus.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert not tpus._knows_tpu()
    (tmp_path / "libtpu.so").write_text("")
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    assert tpus._knows_tpu()


def test_kinds_are_those_of_jax_and_have_a_peak():
    from jax._src import hardware_utils

    of_jax = {number: version.name for number, version in hardware_utils._TPU_PCI_DEVICE_IDS.items()}
    names = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}
    assert {chip.kind: of_jax[chip.pci] for chip in tpus.CHIPS} == names
    # Else the parent would measure one, with the chips that are its workers'
    assert all(hardware.peak_flops(chip.kind, dtype) for chip in tpus.CHIPS for dtype in ("float32", "bfloat16"))


def test_each_worker_has_its_chip():
    places = processes._places(4, list(range(8)), [], ["0", "1", "2", "3"])
    assert [cores for cores, _ in places] == [{0, 4}, {1, 5}, {2, 6}, {3, 7}]
    environments = [environment for _, environment in places]
    assert [environment["TPU_VISIBLE_CHIPS"] for environment in environments] == ["0", "1", "2", "3"]
    assert [environment["TPU_VISIBLE_DEVICES"] for environment in environments] == ["0", "1", "2", "3"]
    assert len({environment["TPU_PROCESS_PORT"] for environment in environments}) == 4
    for environment in environments:
        assert environment["TPU_PROCESS_ADDRESSES"] == f"localhost:{environment['TPU_PROCESS_PORT']}"
        assert environment["TPU_PROCESS_BOUNDS"] == environment["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,1,1"
        assert environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert [cores for cores, _ in processes._places(2, [5], [], ["0", "1"])] == [{5}, {5}]


def test_small_models_get_a_chip_each_and_large_ones_all(host, monkeypatch):
    host(*["0x0063"] * 4, files=vfio(4))
    small_ones, large = [cell(seed=seed) for seed in range(4)], cell("14m", budget=1e14)
    need = cost.MEMORY_OFF * sum(cost.memory([large], cost.Machine.of_chip(V5E)).values())
    assert need < V5E.memory and cost.workers(0, [*small_ones, large]) == 4
    one = executors.workers_for(0)  # as JAX has it here
    assert cost.workers(0, small_ones[:3]) == one  # fewer than chips
    assert cost.workers(0, [*small_ones, cell(**{"training.mesh.tensor": 2})]) == 1
    tight = [chip._replace(memory=need * 0.99) for chip in tpus.CHIPS]
    monkeypatch.setattr(tpus, "CHIPS", tight)
    assert cost.workers(0, [*small_ones, large]) == 1 and cost.workers(0, small_ones) == 4
    monkeypatch.setattr(tpus, "taken", lambda: True)  # by this process
    assert cost.workers(0, small_ones) == one and cost.workers(4, small_ones) == 1
    monkeypatch.setattr(tpus, "taken", lambda: False)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert cost.workers(0, small_ones) == one


def test_a_chip_serves_one_process(host):
    host(*["0x0063"] * 4, files=vfio(4))
    assert executors.workers_for(4) == 4 and executors.workers_for(1) == 1
    with pytest.raises(UserError, match=r"--config\.workers=5: a TPU chip serves one process, and this host has 4"):
        executors.workers_for(5)
    host()
    assert executors.workers_for(5) == 5


def test_what_workers_have_is_told_without_taking_it(host, monkeypatch):
    host(*["0x006f"] * 4, files=vfio(4))
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("takes the chips"))
    told = cost.table([cell(), cell(seed=1)], workdir=None, workers=4)
    assert "TPU v6 lite" in told.splitlines()[-1] and "in 4 processes" in told


def test_a_unit_goes_to_the_least_that_holds_it():
    one = cost.Machine.of_chip(V6E)
    grid = [cell(seed=seed) for seed in range(4)] + [cell("14m", budget=1e14)]
    where, why = cost.place(grid, one, 4)
    assert where == "device"
    assert re.fullmatch(r"of the largest cells, 14m takes \d+ MB of the 32\.0 GB of TPU v6 lite by prediction", why)
    assert cost.place(grid, one, 8) == ("host", "5 units are fewer than its devices")
    where, why = cost.place([*grid, cell(**{"training.mesh.fsdp": 4})], one, 4)
    assert (where, why) == ("host", "25k is cut over 4 devices (--config.training.mesh)")
    assert cost.place([*grid, cell(**{"training.mesh.fsdp": 8})], one, 4)[0] == "all"

    cut = cell("14m", budget=1e14, **{"training.mesh.tensor": 4})
    on = [cost.MEMORY_OFF * sum(cost.memory([cut], cost.Machine("tpu", "", n, 0)).values()) for n in (1, 4)]
    assert on[0] == on[1]  # its mesh says over how many
    whole = cell("14m", budget=1e14)
    on = [cost.MEMORY_OFF * sum(cost.memory([whole], cost.Machine("tpu", "", n, 0)).values()) for n in (1, 4)]
    between = cost.Machine("tpu", "x", 1, sum(on) / 2)  # a batch on one is too much, a quarter of it is not
    assert on[1] < between.memory < on[0]
    large = [cell("14m", budget=1e14, seed=seed) for seed in range(4)]
    where, why = cost.place(large, between, 4)
    assert where == "host"
    assert re.fullmatch(r"14m takes .* MB of the .* MB of x by prediction, which may be off by a factor of 2", why)
    assert cost.place(large, cost.Machine("tpu", "x", 1, on[1] * 0.99), 4)[0] == "all"


def say_environment(unit, workdir, report):
    return [{name: value for name, value in os.environ.items() if name.startswith(("TPU_", "XLA_FLAGS"))} for _ in unit]


def test_workers_are_started_with_their_chips(host, monkeypatch, tmp_path):
    host(*["0x0063"] * 2, files=vfio(2))
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=")
    monkeypatch.delenv("TPU_VISIBLE_CHIPS", raising=False)
    results = executors.run(say_environment, units(6), tmp_path, workers=2, title="test")
    told = [said for unit in results for said in unit]
    assert {said["TPU_VISIBLE_CHIPS"] for said in told} <= {"0", "1"}
    assert all(int(said["TPU_PROCESS_PORT"]) == tpus.PORT + int(said["TPU_VISIBLE_CHIPS"]) for said in told)
    assert {said["XLA_FLAGS"] for said in told} == {"--xla_dump_to="}  # not those of a CPU
    assert "TPU_VISIBLE_CHIPS" not in os.environ


SWEEP = """
import runpy, sys
from pathlib import Path
from ehr_scaling.grid.executors import local, processes, tpus
tpus.ROOT, tpus._knows_tpu = Path({root!r}), lambda: True
def run(work, results, failures, workers, bar):
    print("taken" if tpus.taken() else "free", workers, sys.argv[0], file=sys.stderr)
    raise SystemExit(0)
processes.run = run
sys.argv = ["launch.sweep", *{flags!r}]
runpy.run_module("launch.sweep", run_name="__main__", alter_sys=True)
"""


def test_a_sweep_leaves_the_chips_to_its_workers(tmp_path):
    workdir = tmp_path / "w"
    small.prepare(workdir)
    root = machine(tmp_path / "root", *["0x0063"] * 4, files=vfio(4))
    flags = ["--config.data.patients=300", "--config.data.context=64", "--config.data.block=4"]
    flags += ["--config.grid.budgets=(1.2e9,)", "--config.grid.sizes=('1.7k','3.5k')", "--config.grid.seeds=(0,1)"]
    program = SWEEP.format(root=str(root), flags=[*flags, f"--workdir={workdir}"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_PLATFORMS", "TPU_"))}
    done = forked.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert "in 4 processes" in done.stdout, done.stderr
    assert "free 4 " in done.stderr


@pytest.mark.parametrize("many", [4, 5])
@pytest.mark.parametrize("cut", [1, 4])
def test_a_host_finds_what_its_printed_command_was_chosen_by(host, monkeypatch, many, cut):
    """It is told of its chips, and not of how many processes: that stays its own to say."""
    host(*["0x006f"] * 8, files=vfio(8))
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", tpus.alone_on(["0", "1", "2", "3"])["TPU_VISIBLE_CHIPS"])
    grid = [cell(seed=seed, **{"training.mesh.fsdp": cut}) for seed in range(many)]
    where, _ = cost.place(grid, cost.Machine.of_chip(V6E), 4)
    assert (where, cost.workers(0, grid)) == (("device", 4) if cut == 1 else ("host", 1))
