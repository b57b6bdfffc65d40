"""What a reader should doubt, worked out from the runs themselves."""

import numpy as np

from ehr_scaling.analysis.isoflop import parabola
from ehr_scaling.analysis.report.results import Results, shared
from ehr_scaling.analysis.report.summary import by_seeds
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import count, plural, power, significant, title

FEW_PASSES = 4  # repeats up to about here cost little (Muennighoff et al. 2023, arXiv 2305.16264)


def left_out(code: str, table: RunTable) -> str:
    """Why a run is in no fit, by the code of its note: 'fewer patients'; of runs that know no patients, 'less data'."""
    return "less data" if code == "fewer_patients" and not table.of_patients else title(code)


def limits(r: Results) -> list[str]:
    """One sentence or two for each thing that bounds what these laws can be used for."""
    t = r.table
    out = []
    if t.generated is True:
        out.append(
            "The patients are generated. The report shows that the method works on records of a known kind; it "
            "says nothing about medicine, and its exponents are those of the generator."
        )
    elif t.generated is False:
        out.append(
            "The published study used MIMIC-IV at sizes up to about 1 G parameters. Nothing here claims parity "
            "with its numbers: data, tokens and sizes differ."
        )
        if r.outcomes or r.valued:
            out.append(
                "Not for care. The scores are of patients of the same records as the training patients, looked at "
                "afterwards: nobody used the model, no other hospital's patients were asked here, and how it would "
                "drift is not known, as dates are shifted or absent. What the records do not hold, such as limits "
                "of treatment, neither the model nor this report knows."
            )
    reach = np.log10(t.C.max() / t.C.min())
    sizes = f"{count(t.N.min())} to {count(t.N.max())} body parameters"
    out.append(
        f"Sizes: {sizes}; compute {power(t.C.min())} to {power(t.C.max())} FLOPs, {reach:.1f} decades. A law over "
        "so short a range describes it; predictions beyond it are marked extrapolated. Their intervals hold the "
        "noise of the runs and how far off the law was in hold-outs among these runs, not what is new beyond them."
    )
    passes = t.passes[np.isfinite(t.passes)]
    if len(passes):
        many = int((passes > FEW_PASSES).sum())
        out.append(
            f"Repeated data: runs saw their training tokens {significant(passes.min(), 2)} to "
            f"{significant(passes.max(), 2)} times; {many} of {len(passes)} more than {FEW_PASSES} times. The laws "
            "count every token seen as new, so optima of much-repeated runs hold for this amount of data only."
        )
    else:
        out.append("Unique tokens are not in the table, so whether data were repeated is not known.")
    out += _tuning(r)
    out += _noise(r)
    if t.notes:
        codes: dict[str, int] = {}
        for note in t.notes:
            codes[note.code] = codes.get(note.code, 0) + 1
        listing = ", ".join(f"{number} {left_out(code, t)}" for code, number in codes.items())
        out.append(f"Left out of the fits: {listing}; each is listed with the cells.")
    task = "any clinical task" if t.of_patients else "a task that the model is meant for"
    out.append(
        "Loss a token depends on the vocabulary: it compares runs of one tokenization only. The optimum is of "
        f"validation loss, which need not be that of {task}."
    )
    return out


def _tuning(r: Results) -> list[str]:
    batches = [np.unique(b) for b in (r.table.batch[f.rows] for f in r.budgets) if np.isfinite(b).all()]
    values = sorted({float(v) for b in batches for v in b})
    out = []
    if len(values) > 1:
        out.append(
            f"Batch size is not the same in all cells ({', '.join(count(v) for v in values[:6])} tokens a step): "
            "part of the difference between them may be the batch's."
        )
    searched = [cell for cell in r.tuning if "lr" in cell["tried"]]
    if searched:
        edges = sum("lr" in cell["edge"] for cell in searched)
        out.append(
            f"{plural(len(searched), 'cell')} had several learning rates, of which the best stands in the fits; in "
            f"{edges} of them it is the smallest or largest tried, so that a better one may lie beyond."
        )
    elif np.isfinite(r.table.lr).any():
        out.append(
            "Learning rates follow one rule and were not searched in every cell. Cells that the rule suits badly "
            "bend the profiles."
        )
    if outside := int((r.table.edge != "").sum()):
        out.append(
            f"{plural(outside, 'run')} of {len(r.table)} lie outside of the sizes and lengths on which the study's "
            "rules for batch and learning rate were explored."
        )
    return out


def _noise(r: Results) -> list[str]:
    out = []
    known = [f for f in r.budgets if np.isfinite(f.seed_noise)]
    if not known:
        return [
            "No size was run with two seeds, so the noise between seeds is not known; scatter about the parabola "
            "stands in."
        ]
    rough = [f for f in known if f.scatter * (len(f.rows) / f.sizes) ** 0.5 > 2 * f.seed_noise]
    if rough:
        out.append(
            f"At {', '.join(power(f.C) for f in rough)} FLOPs the sizes scatter about the curve more than twice "
            "as much as their seeds explain: something other than the seed moves these cells. The intervals hold "
            "that."
        )
    forecasts = r.planner.forecaster.shared if r.planner else 0.0
    shares = (shared(f, r.options.level) for f in r.budgets)
    if by := by_seeds((share for share in shares if np.isfinite(share)), forecasts):
        out.append(f"{by[0].upper()}{by[1:]}.")
    shaky = [f for f in r.budgets if f.verdict == parabola.BRACKETED and f.failed > r.options.failed]
    if shaky:
        out.append(
            f"{plural(len(shaky), 'bracketed budget')} lose the vertex in many bootstrap draws; read their optimum "
            "as a guess."
        )
    return out
