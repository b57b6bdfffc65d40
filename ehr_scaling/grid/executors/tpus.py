"""TPU chips: the kinds that are known, and those of this host, found without JAX, which takes all that it sees.

Several processes can share a host, each with chips of its own, where the environment of each says which these are, and
that it is alone. The files of devices and their PCI numbers are those by which JAX (`jax._src.hardware_utils`) and
Google's tpu-info find chips, the variables those with which JAX's own tests (`jax._src.test_multiprocess`) start a
process a chip; memory is the vendor's.
"""

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")  # under which dev/ and sys/ are
PORT = 8476  # of the first chip's process; each has its own
_GOOGLE = "0x1ae0"  # its number as a maker of PCI devices


class Chip(NamedTuple):
    """A kind of chip that is one device to JAX."""

    kind: str  # jax.Device.device_kind
    memory: float  # bytes
    pci: str  # its number as a PCI device
    cloud: str  # how gcloud's types of accelerators begin
    counted: int  # what these types count for each chip: two TensorCores in some
    gke: tuple[str, ...]  # GKE's names
    most: int  # chips on one host, of a slice that is one host


# Not v2 and v3, whose chips are two devices each, nor what is newer than these: they are left to one process
CHIPS = (
    Chip("TPU v4", 32e9, "0x005e", "v4", 2, ("tpu-v4-podslice",), 4),
    Chip("TPU v5 lite", 16e9, "0x0063", "v5litepod", 1, ("tpu-v5-lite-podslice", "tpu-v5-lite-device"), 8),
    Chip("TPU v5", 95e9, "0x0062", "v5p", 2, ("tpu-v5p-slice",), 4),
    Chip("TPU v6 lite", 32e9, "0x006f", "v6e", 1, ("tpu-v6e-slice",), 8),
)
# How the chips of one host are laid out, for the TPU's runtime, by how many there are
BOUNDS = {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"}


def here() -> tuple[Chip | None, list[str]]:
    """The kind of the TPU chips that JAX would use on this host, and their numbers; (None, []) where it would use none,
    where they are of a kind that is not known here, and where it is not clear which of them are this machine's."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] not in ("", "tpu") or not _knows_tpu():
        return None, []
    devices = [_number(vendor.with_name("device")) for vendor in _vendors() if _number(vendor) == _GOOGLE]
    chips = [chip for number in devices for chip in CHIPS if chip.pci == number]
    if not chips or len({chip.kind for chip in chips}) > 1:
        return None, []
    for name in ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"):
        if (visible := os.environ.get(name)) is not None:
            numbers = [number for number in visible.split(",") if number]
            return (chips[0], numbers) if all(map(str.isdigit, numbers)) else (None, [])
    dev = ROOT / "dev"
    files = list(dev.glob("accel[0-9]*")) or list((dev / "vfio").glob("[0-9]*"))
    if len(files) != len(chips):  # a container with some of them
        return None, []
    return chips[0], [str(number) for number in range(len(chips))]


def _knows_tpu() -> bool:
    """Whether JAX has what it needs for TPUs."""
    return importlib.util.find_spec("libtpu") is not None or Path(os.environ.get("TPU_LIBRARY_PATH", "")).is_file()


def _vendors() -> list[Path]:
    return sorted((ROOT / "sys/bus/pci/devices").glob("*/vendor"))


def _number(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def taken() -> bool:
    """Whether this process has asked JAX for its devices, and with them taken the chips that it sees."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def alone_with(chip: str) -> dict[str, str]:
    """Environment of a process that has one chip of this host, beside others that have the other ones."""
    port = str(PORT + int(chip))
    return {
        **alone_on([chip]),
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": port,
        "CLOUD_TPU_TASK_ID": "0",  # which of the addresses is its own
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a lock in /tmp is for the whole host
    }


def alone_on(chips: list[str]) -> dict[str, str]:
    """Environment of a process that has these chips of its host, as many as BOUNDS knows, and takes them for all there
    are."""
    visible = ",".join(chips)
    return {
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": BOUNDS[len(chips)],
        # What earlier runtimes, and GKE, call the same
        "TPU_HOST_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_HOST_BOUNDS": BOUNDS[len(chips)],
        "TPU_VISIBLE_CHIPS": visible,
        "TPU_VISIBLE_DEVICES": visible,
    }
