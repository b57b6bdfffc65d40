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

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from ehr_scaling import hardware
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.plan import next_runs, plan_basis, planner
from ehr_scaling.analysis.plan.plan_words import TOLERANCE
from ehr_scaling.analysis.plan.record import ENOUGH, NO_LIMIT, NOT_TOLD, Plan, Planner
from ehr_scaling.analysis.report.report import MARK
from ehr_scaling.analysis.wording import count, decimal, percent, plural, power, significant, span, title
from ehr_scaling.artifacts import read_json, write_json
from ehr_scaling.errors import UserError
from launch.common import run

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
MOST_APART = flags.DEFINE_float("tolerance", TOLERANCE, "Of the loss, by which laws may disagree beyond the runs.")
NEXT = flags.DEFINE_float("next_runs", None, "Propose runs for so many FLOPs instead.")
TARGET = flags.DEFINE_enum(
    "target", "loss", next_runs.TARGETS, "What they are to narrow: the best size N, or the loss."
)
JSON = flags.DEFINE_string("json", None, "File for the plan, as JSON.")

REFUSED = 3  # exit status


def main() -> None:
    laws = read_json(Path(REPORT.value) / MARK)
    known = known_of(laws)
    C = compute()
    if NEXT.value is not None:
        budget = positive("next_runs", NEXT.value)
        proposed = next_runs.propose(known, TARGET.value, C, budget, unique_tokens(known), most_passes(known))
        print(proposal(proposed, known.forecaster.options.level))
        write({"next_runs": vars(proposed)})
        return
    tokens = unique_tokens(known)
    made = planner.plan(known, C, tokens, most_passes(known), MOST_APART.value)
    print(f"{laws['data']['description']}\n{words(known, made)}")
    write({"plan": vars(made)})
    if made.refused:
        sys.exit(REFUSED)


def known_of(laws: dict[str, Any]) -> Planner:
    record = laws.get("planner")
    if record is None:
        raise UserError(
            f"{REPORT.value}: its laws.json has nothing to plan with, as no law could be fitted or it is of an earlier "
            "version: run launch.analyze again, on more runs"
        )
    try:
        return plan_basis.from_json(record)
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{REPORT.value}/{MARK} is damaged: run launch.analyze again") from None


def most_passes(known: Planner) -> float:
    """Infinite for no limit."""
    if PASSES.value is not None:
        return positive("most_passes", PASSES.value, most=np.inf)
    seen = known.seen["passes"][1]
    return max(seen, 1.0) if np.isfinite(seen) else np.inf


def positive(flag: str, value: float, most: float = np.finfo(float).max) -> float:
    if not 0 < value <= most:
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


def unique_tokens(known: Planner) -> float:
    """Of the patients there are; infinite for no limit."""
    if PATIENTS.value is not None and TOKENS.value is not None:
        raise UserError("give --patients or --unique_tokens, not both")
    if TOKENS.value is not None:
        return positive("unique_tokens", TOKENS.value, most=np.inf)
    if PATIENTS.value is not None:
        patients = positive("patients", PATIENTS.value, most=np.inf)
        if np.isfinite(patients) and not np.isfinite(known.tokens_a_patient):
            raise UserError("the runs do not say how many tokens a patient has: give --unique_tokens")
        return patients * known.tokens_a_patient if np.isfinite(patients) else np.inf
    return known.unique_tokens if np.isfinite(known.unique_tokens) else np.inf


def words(known: Planner, made: Plan) -> str:
    """The plan for a terminal, or why there is none."""
    patients = made.unique_tokens / known.tokens_a_patient
    who = f"{count(patients)} patients, " if np.isfinite(patients) else ""
    times = f"at most {significant(made.most_passes, 2)} {'pass' if made.most_passes == 1 else 'passes'}"
    data = f"{who}{count(made.unique_tokens)} unique tokens, " if np.isfinite(made.unique_tokens) else ""
    head = f"with {power(made.C)} FLOPs and {data}{times if np.isfinite(made.most_passes) else 'any number of passes'}:"
    if not np.isfinite(made.unique_tokens):
        head = f"with {power(made.C)} FLOPs and no limit of data:"
    if made.refused:
        ask = "--next_runs says which runs would tell more"
        return "\n".join([head, *(f"refused: {reason}" for reason in made.refused), ask])
    level = percent(known.forecaster.options.level)
    lines = [
        head,
        f"  size    {count(made.N)} body parameters ({level}: {span(made.N_interval, count)}; within "
        f"{percent(planner.BAND, 1)} of the lowest loss: {span(made.band, count)}), {made.words['N'].word}",
        f"  tokens  {count(made.D)}" + (f", {significant(made.passes, 3)} passes" if made.passes else ""),
        f"  loss    {decimal(made.loss)} nats a token ({level}: {span(made.loss_interval)}), {made.words['loss'].word}",
    ]
    if made.words["loss"].reason:
        lines.append(f"          {made.words['loss'].reason}")
    lines += [
        f"  AUROC   {title(task)}: {decimal(o['auroc'])} ({level}: {span(o['interval'])}), {o['word']}"
        for task, o in made.outcomes.items()
    ]
    if np.isfinite(made.batch):
        lines.append(
            f"  batch   {count(made.batch)} tokens a step, peak rate {significant(made.rate)}, as the runs had"
        )
    if DEVICE.value is not None:
        hours = made.C / rate() / DEVICES.value / 3600
        lines.append(f"  time    {significant(hours)} hours on {DEVICES.value} of {DEVICE.value} at MFU {MFU.value:g}")
    return "\n".join([*lines, *exchange(made)])


def exchange(made: Plan) -> list[str]:
    feeds = made.feeds
    fed = f": these feed {count(feeds['N'])} parameters at {power(feeds['C'])} FLOPs" if np.isfinite(feeds["N"]) else ""
    if made.data == NO_LIMIT:
        return []
    if made.data == NOT_TOLD:
        why = "the runs do not say what it costs to see tokens again"
        return [f"  data    whether more patients would help is not told, as {why}{fed}"]
    if made.data == ENOUGH:
        return [f"  data    more patients would not help at this compute{fed}"]
    if np.isfinite(made.patients_are_worth):
        worth = f"are worth {significant(made.patients_are_worth)} times the compute"
    else:
        worth = "reach what no compute does with these"
    return [f"  data    the patients limit this plan: twice as many {worth}"]


def proposal(found: next_runs.NextRuns, level: float) -> str:
    what = "best size" if found.target == "N" else "lowest loss"
    if not found.runs:
        return f"no run of that cost would narrow the {what} at {power(found.C)} FLOPs: {found.verdict.reason}"
    lines = [
        f"to narrow the {what} at {power(found.C)} FLOPs, whose {percent(level)} interval is "
        f"{percent(found.before, 1)} wide now:"
    ]
    times = Counter((run["N"], run["D"], run["C"]) for run in found.runs)
    lines += [
        f"  {plural(many, 'run')} of {power(C)} FLOPs: N {count(N)}, D {count(D)}"
        for (N, D, C), many in sorted(times.items())
    ]
    lines.append(f"then {percent(found.after, 1)} wide, for {power(found.cost)} FLOPs in all")
    return "\n".join([*lines, found.verdict.reason])


def write(record: dict[str, Any]) -> None:
    if JSON.value:
        write_json(Path(JSON.value), plain(record))


if __name__ == "__main__":
    run(main)
