"""Processors of this machine, and peak rates of accelerators, for the share of them that training reaches (MFU, model
FLOPs utilization)."""

import os

# FLOP/s of matrix products without sparsity, by the name that jax.Device.device_kind gives a device, from the vendors'
# data sheets: (bfloat16, float32). float32 is what JAX's default precision makes of it (jax.lax.Precision): TF32 on
# NVIDIA from Ampere on, one bfloat16 pass on TPU. None: the device has no such unit. Sheets that give rates with 2:4
# sparsity are halved here. A part of a device (MIG) has another name, hence no peak here.
_PEAKS: dict[str, tuple[float | None, float | None]] = {
    "NVIDIA B200": (2250e12, 1125e12),
    "NVIDIA H200": (989e12, 494e12),
    "NVIDIA H200 NVL": (836e12, 418e12),
    "NVIDIA GH200 480GB": (989e12, 494e12),
    "NVIDIA H100 80GB HBM3": (989e12, 494e12),  # SXM
    "NVIDIA H100 NVL": (836e12, 418e12),
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA A100-SXM4-40GB": (312e12, 156e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 156e12),
    "NVIDIA A100-PCIE-40GB": (312e12, 156e12),
    "NVIDIA A100 80GB PCIe": (312e12, 156e12),
    "NVIDIA L40S": (362e12, 183e12),
    "NVIDIA L4": (121e12, 60e12),
    "Tesla V100-SXM2-16GB": (None, 15.7e12),
    "Tesla V100-SXM2-32GB": (None, 15.7e12),
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),  # v5e
    "TPU v5e": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),  # v5p
    "TPU v5p": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),  # v6e
    "TPU v6e": (918e12, 918e12),
}

DEVICES = tuple(_PEAKS)


def cores() -> list[int]:
    """Numbers of the processors that this process may run on; on macOS, which has no such limit, of all there are."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def pin(cores: set[int]) -> None:
    """Run on these processors alone from now on; on macOS, which cannot be told, on whichever it gives."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device for matrix products of `dtype`; None where it is not known, as for a CPU.

    Args: device_kind, of jax.Device; dtype, "float32" or "bfloat16".
    """
    bfloat16, float32 = _PEAKS.get(device_kind, (None, None))
    return {"bfloat16": bfloat16, "float32": float32}[dtype]


def mfu(flops_per_second: float, devices: int, kind: str, dtype: str) -> float | None:
    """Share of the peak of `devices` devices that `flops_per_second`, counted by `flops`, comes to; None: no peak."""
    peak = peak_flops(kind, dtype)
    return None if peak is None else flops_per_second / (devices * peak)
