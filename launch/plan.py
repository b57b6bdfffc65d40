r"""Which model to train with the patients and the compute you have, and what it will reach.

    python -m launch.plan --report=W/report --flops=1e18
    python -m launch.plan --report=W/report --gpu_hours=200 --device="NVIDIA H100 80GB HBM3" --mfu=0.3 --patients=300000
    python -m launch.plan --report=W/report --next_runs=1e16 --target=loss --flops=1e18

--report is the folder that launch.analyze or launch.study wrote. Compute is --flops, or --gpu_hours of a --device at a
share --mfu of its peak rate (an assumption: measure it on a run, metrics.jsonl has it). Data are --patients, or
--unique_tokens; by default those of the report. A plan is refused, with the reason and exit status 3, where the law is
unidentified, and beyond the runs where laws that are about as good disagree by more than --tolerance of the loss, or
the joint law and the line through the IsoFLOP optima about the best size. "inf" patients, tokens or passes are no
limit; so are those that the runs do not tell.

--next_runs asks another question: which runs to add for so many FLOPs, to narrow what is known of the --target at the
compute given.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ehr_scaling import hardware
from ehr_scaling.errors import UserError
from ehr_scaling.progress import Steps

from .common.common import run

if TYPE_CHECKING:
    from ehr_scaling.analysis.plan.record import Plan, Planner

TARGETS = ("N", "loss")
REPORT = flags.DEFINE_string("report", None, "Folder with laws.json, of launch.analyze or launch.study.", required=True)
FLOPS = flags.DEFINE_float("flops", None, "Compute to plan for.")
HOURS = flags.DEFINE_float("gpu_hours", None, "Or: hours of one --device.")
DEVICE = flags.DEFINE_string("device", None, "Name of the device, as jax.devices()[0].device_kind gives it.")
DEVICES = flags.DEFINE_integer("devices", 1, "How many of them, for the wall time.", lower_bound=1)
MFU = flags.DEFINE_float("mfu", 0.3, "Share of the peak rate that training reaches.", lower_bound=0.0, upper_bound=1.0)
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of activations, for the peak rate.")
PATIENTS = flags.DEFINE_float("patients", None, "Patients to train on.")
TOKENS = flags.DEFINE_float("unique_tokens", None, "Or: their tokens.")
PASSES = flags.DEFINE_float("most_passes", None, "Passes over the patients at most; default: those of the runs.")
MOST_APART = flags.DEFINE_float("tolerance", 0.02, "Of the loss, by which laws may disagree beyond the runs.")
NEXT = flags.DEFINE_float("next_runs", None, "Propose runs for so many FLOPs instead.")
TARGET = flags.DEFINE_enum("target", "loss", TARGETS, "What they are to narrow: the best size N, or the loss.")
JSON = flags.DEFINE_string("json", None, "File for the plan, as JSON.")

REFUSED = 3  # exit status


def main() -> None:
    with Steps() as steps:
        steps.say(f"reading {REPORT.value}")
        from ehr_scaling.analysis.plan import in_words, next_runs, planner
        from ehr_scaling.analysis.report.report import MARK
        from ehr_scaling.artifacts import read_json

        laws = read_json(Path(REPORT.value) / MARK)
        known, C = known_of(laws), compute()
        data = planner.limits(known, PATIENTS.value, TOKENS.value, PASSES.value, flag="--")
        if NEXT.value is not None:
            proposed = next_runs.propose(known, TARGET.value, C, positive("next_runs", NEXT.value), *data)
            print(in_words.next_runs(proposed, known.forecaster.options.level))
            write({"next_runs": vars(proposed)})
            return
        plan = planner.plan(known, C, *data, MOST_APART.value)
        print(f"{laws['data']['description']}\n{in_words.plan(known, plan, (*time(C), *memory(laws, known, plan)))}")
        write({"plan": vars(plan)})
    if plan.refused:
        sys.exit(REFUSED)


def known_of(laws: dict[str, Any]) -> "Planner":
    from ehr_scaling.analysis.plan import plan_basis

    record = laws.get("planner")
    if record is None:
        raise UserError(
            f"{REPORT.value}: its laws.json has nothing to plan with, as no law could be fitted or it is of an earlier "
            "version: run launch.analyze again, on more runs"
        )
    try:
        return plan_basis.from_json(record)
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{REPORT.value}: its laws.json is damaged: run launch.analyze again") from None


def positive(flag: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UserError(f"--{flag}={value:g}: give a number above 0")
    return value


def compute() -> float:
    """FLOPs to plan for, of --flops or --gpu_hours."""
    if (FLOPS.value is None) == (HOURS.value is None):
        raise UserError("say how much compute there is: --flops, or --gpu_hours with --device")
    if HOURS.value is None:
        return positive("flops", FLOPS.value or 0.0)
    return positive("gpu_hours", HOURS.value) * 3600 * rate()


def rate() -> float:
    """FLOP/s of one device."""
    if DEVICE.value is None:
        raise UserError("--gpu_hours needs --device, such as --device='NVIDIA H100 80GB HBM3'")
    peak = hardware.peak_flops(DEVICE.value, DTYPE.value)
    if peak is None:
        named = ", ".join(hardware.DEVICES)
        raise UserError(f"--device={DEVICE.value}: no peak rate is known of it for {DTYPE.value}; take one of {named}")
    return peak * positive("mfu", MFU.value)


def time(C: float) -> tuple[str, ...]:
    """The line of the hours it takes, where the device is known."""
    if DEVICE.value is None:
        return ()
    from ehr_scaling.analysis.wording import significant

    hours = significant(C / rate() / DEVICES.value / 3600)
    return (f"  time    {hours} hours on {DEVICES.value} of {DEVICE.value} at MFU {MFU.value:g}",)


def memory(laws: dict[str, Any], known: "Planner", plan: "Plan") -> tuple[str, ...]:
    """The line of what such a model remembers of its patients, where models were audited and a law says it."""
    from ehr_scaling.analysis.outcomes import memory

    of_audits = (laws.get("memory") or {}).get("laws", {})
    try:
        fitted = {name: memory.from_json(name, record) for name, record in of_audits.items()}
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{REPORT.value}: its laws.json is damaged: run launch.analyze again") from None
    said = memory.sentence(fitted, plan.N, plan.passes or math.nan, plan.unique_tokens / known.tokens_a_patient)
    return (f"  memory  {said}",) if said else ()


def write(record: dict[str, Any]) -> None:
    from ehr_scaling.analysis.plain import plain
    from ehr_scaling.artifacts import write_json

    if JSON.value:
        write_json(Path(JSON.value), plain(record))


if __name__ == "__main__":
    run(main)
