import subprocess
import sys

import pytest

from ehr_scaling import hardware


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
        ("TPU v4", "bfloat16", 275e12),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v6 lite", "bfloat16", 918e12),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),
        ("cpu", "float32", None),
    ],
)
def test_peaks(kind, dtype, peak):
    assert hardware.peak_flops(kind, dtype) == peak


def test_utilization_is_a_share_of_all_devices():
    assert hardware.mfu(4 * 98.9e12, 4, "NVIDIA H200", "bfloat16") == pytest.approx(0.1)
    assert hardware.mfu(1e12, 1, "cpu", "float32") is None
    with pytest.raises(KeyError):
        hardware.peak_flops("NVIDIA H200", "int3")


def test_it_costs_no_jax():
    code = "import sys, ehr_scaling.hardware; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
