"""The model card: the fields of CHAI's Applied Model Card, answered from the evidence. No field says more than that."""

from typing import Any

from ehr_scaling import __version__
from ehr_scaling.analysis.forecast import holdout
from ehr_scaling.analysis.outcomes.audits import LOSS, RATIO
from ehr_scaling.analysis.outcomes.decisions import OF_GAP
from ehr_scaling.analysis.outcomes.scores import Group, Measure
from ehr_scaling.analysis.wording import DASH, count, decimal, plural, power, signed, significant, span, title
from ehr_scaling.analysis.words import Verdict
from ehr_scaling.cards.evidence import Evidence, ScoredTask
from ehr_scaling.cards.fields import AUTHORS, INSTITUTION, NAMES, OWNER, TRAINER, USER, Field, interval, unanswered
from ehr_scaling.data.inspection import card, inspection
from ehr_scaling.finished_models.release import NOT_OF_GENERATED, NOT_OF_REAL
from ehr_scaling.outcomes.asking.prepared import ISOTONIC, LINE

MODEL = "model."
GRID, RUN, LAWS, REPORT = "grid/manifest.jsonl", "runs/", "report/laws.json", "report/report.html"
TASK, SCORE = "outcomes/<task>/task.json", "outcomes/<task>/<cell>.json"
AUDIT = "audit/<cell>.json"
EVENTS, TIMELINES = "events/artifact.json", "timelines/README.md"
NOBODY = "None: the patients are generated."
RECALIBRATIONS = {
    LINE: "a logistic regression on the logit of its risks (Cox 1958), which keeps ranks",
    ISOTONIC: "an isotonic regression on its risks (Zadrozny and Elkin 2002), after which stays of one level tie",
}
_WEIGHED = {  # by how windows are drawn for a pass
    "token": ": every token weighs the same, whosever it is",
    "patient": ": every patient gives one window a pass, however long the record",
}
BIBLIOGRAPHY = """\
@misc{{ehr_scaling, title = {{ehr_scaling: scaling laws for electronic health records, in JAX}},
  author = {{The ehr_scaling authors}}, note = {{version {version}}}}}
@misc{{scaling_ehr, title = {{Exploring Scaling Laws for EHR Foundation Models}}, eprint = {{2505.22964}},
  archivePrefix = {{arXiv}}}}"""


def fields(e: Evidence, word: Verdict) -> list[Field]:
    """Every field but the results, in the order of the schema. word: of `standing.judge`."""

    def answered(path: str, label: str, text: str, where: str, left: str = "", who: str = "") -> Field:
        return Field(MODEL + path, label, text, where, left, who)

    def open_(path: str, label: str, who: str, optional: bool = False) -> Field:
        return unanswered(MODEL + path, label, who, optional=optional)

    c, commit = e.cell, e.laws.get("provenance", {}).get("versions", {}).get("commit", "unknown")
    whose = "generated" if e.generated else "real"
    tasks = ", ".join(task.title for task in e.scored)
    facts, transparency = "TrustIngredients/AISystemFacts/", "TrustIngredients/TransparencyInformation/"
    summary = f"{_standing(word)}\n\n{_what(e)} {_law(e)}"
    keywords = ["electronic health records", "scaling laws", f"{whose} patients", *(t.title for t in e.scored)]
    population = _population(e)
    return [
        answered("BasicInfo/ModelName", "Model", f"{e.source}: {c.size}, cell {c.id}", GRID),
        open_("BasicInfo/ModelDeveloper", "Developer", TRAINER),
        open_("BasicInfo/DeveloperContact", "Contact", TRAINER),
        answered(
            "ReleaseInfo/ReleaseStage", "Stage", f"A model of a study of scaling laws, which is {word.word}.", LAWS,
            "whether, and as what, it is released", TRAINER,
        ),
        open_("ReleaseInfo/ReleaseDate", "Date of release", TRAINER),
        answered("ReleaseInfo/ReleaseVersion", "Version", f"cell {c.id}; code {commit}", f"{GRID}; {LAWS}: provenance"),
        open_("ReleaseInfo/GlobalAvailability", "Where it is available", TRAINER),
        open_("ReleaseInfo/RegulatoryApproval", "Approval by regulators", USER, optional=True),
        answered("ModelSummary/Summary", "Summary", summary, f"{GRID}; {LAWS}: isoflop, verdicts"),
        answered("ModelSummary/Keywords", "Keywords", "; ".join(keywords), f"{EVENTS}; {TASK}"),
        answered(
            "UsesAndDirections/IntendedUseAndWorkflow", "Intended use",
            _line(card.GENERATED_USE if e.learnt_of_generated else card.REAL_USE), TIMELINES,
            *(() if e.learnt_of_generated else ("a use in a clinical workflow, if there is to be one", USER)),
        ),
        open_("UsesAndDirections/PrimaryIntendedUsers", "Intended users", USER),
        answered(
            "UsesAndDirections/HowToUse", "How to use it",
            f"`python -m ehr_scaling.launch.predict --model=W --cell={c.id} --data=RECORDS --task=TASK --out=DIR` for "
            f"risks of other patients, `python -m ehr_scaling.launch.export --workdir=W --cell={c.id} --out=DIR` for "
            "the weights; docs/outcomes.md and docs/export.md of ehr_scaling.", GRID,
        ),
        answered("UsesAndDirections/TargetedPatientPopulation", "Patients", population, TASK) if population
        else open_("UsesAndDirections/TargetedPatientPopulation", "Patients", USER),
        answered(
            "UsesAndDirections/CautionedOutOfScopeSettings", "What it must not be used for",
            _line(NOT_OF_GENERATED if e.learnt_of_generated else NOT_OF_REAL), EVENTS,
        ),
        answered(
            "Warnings/KnownRisksAndLimitations", "Risks and limits", "\n".join(f"- {s}" for s in limits(e)),
            f"{LAWS}; {SCORE}; {AUDIT}; {REPORT}#limits",
        ),
        _biases(e),
        open_("Warnings/ClinicalRiskLevel", "Level of clinical risk", USER),
        answered(facts + "OutcomesAndOutputs", "Outcomes and outputs", _outputs(e), TASK) if e.scored
        else open_(facts + "OutcomesAndOutputs", "Outcomes and outputs", AUTHORS),
        answered(facts + "ModelType", "Kind of model", _kind(e), f"{GRID}; {RUN}{c.id}"),
        answered(
            facts + "FoundationModels", "Started from",
            f"the weights `{c.init}`" if c.init else "fresh weights; no other model", GRID,
        ),
        answered(
            facts + "InputDataSource", "Records",
            f"{e.source}, read as {inspection.words(e.events['inputs'].get('source'))}. "
            f"Licence: {e.licence or 'not stated'}.", EVENTS, *(() if e.licence else ("their licence", OWNER)),
        ),
        answered(
            facts + "OutputAndInputDataTypes", "Types of input and output",
            f"In: one patient's record as tokens of preset {e.fitted.preset} (vocabulary of {len(e.fitted.tokens):,}, "
            f"{c.context:,} at once). Out: the probability of each next token, and, of futures drawn from it, "
            f"{'probabilities of ' + tasks if tasks else 'whatever is read off them'}.", "timelines/vocabulary.json",
        ),
        answered(
            facts + "DevelopmentDataCharacterization", "Data of development", _development(e), f"{TIMELINES}; {GRID}",
            *(() if e.generated else ("whom the records stand for: places, years and groups of patients", OWNER)),
        ),
        answered(
            facts + "BiasMitigationApproaches", "Against bias",
            f"None in training{_WEIGHED.get(e.sampling, '')}. Scores are told by group, see fairness.",
            "packed/t<T>/packed.json",
        ),
        open_(facts + "OngoingMaintenance", "Maintenance", TRAINER),
        open_(facts + "Security", "Security", USER, optional=True),
        answered(
            facts + "Transparency", "Transparency",
            f"{REPORT} has all runs, {LAWS} every number; the code is ehr_scaling {__version__} (Apache-2.0).", LAWS,
        ),
        open_(transparency + "FundingSource", "Funding", AUTHORS),
        answered(transparency + "ThirdPartyInformation", "Of third parties", _third_parties(e), EVENTS),
        open_(transparency + "StakeholdersConsulted", "Whom it was discussed with", AUTHORS),
        answered("Resources/EvaluationReferences", "Evaluation", f"{REPORT}; {LAWS}", LAWS),
        open_("Resources/ClinicalTrial", "Clinical trial", USER, optional=True),
        open_("Resources/PeerReviewedPublications", "Publications with peer review", AUTHORS),
        open_("Resources/ReimbursementStatus", "Reimbursement", USER, optional=True),
        answered("Resources/PatientConsentOrDisclosure", "Consent of patients", NOBODY, EVENTS) if e.learnt_of_generated
        else open_("Resources/PatientConsentOrDisclosure", "Consent of patients", INSTITUTION),
        answered("Bibliography", "Bibliography", BIBLIOGRAPHY.format(version=__version__), "ehr_scaling"),
    ]  # fmt: skip


def laws(e: Evidence) -> list[tuple[str, str, str, Verdict]]:
    """What the study found: name, value, its interval, word and reason; a value that is not told is a dash."""
    iso, rows = e.laws["isoflop"], []
    for key, name in (("a", "a of N* ∝ C^a"), ("b", "b of D* ∝ C^b")):
        rows.append((name, decimal(iso[key]), span(iso["intervals"][key]), Verdict.read(e.laws["verdicts"][key])))
    if (sealed := e.laws["holdout"]) and sealed["rows"]:
        accuracy = f"{decimal(sealed['error_percent'], 2)} % off on average"
        inside = f"{round(100 * sealed['coverage'])} % of {plural(len(sealed['rows']), 'run')} inside their intervals"
        first = sealed["sealed_losses_read"] == holdout.AFTER
        how = "filed before its results were read" if first else "its results were read with the others"
        rows.append(("forecast of the sealed budget", accuracy, inside, holdout.judged(sealed).also(how)))
    return rows


def limits(e: Evidence) -> list[str]:
    """What bounds the use of the model, from its scores and the laws; the report's own list stands beside it."""
    out = []
    if e.learnt_of_generated:
        out.append("The patients are generated: nothing it learnt is medicine.")
    elif e.generated:
        out.append(
            "The patients are generated, but it began with the weights of a model of real ones: their terms hold."
        )
    if e.may_know_test:
        out.append(
            "It started from the weights of another model, and nobody here knows whether that was trained on patients "
            "of the test split: its scores may be better than it is."
        )
    out.append(_privacy(e))
    for note in e.laws.get("left_out") or ():
        if note["run"] == e.cell.id:
            out.append(f"No fit of the report has it, whose model of least loss is another: {note['text']}.")
    for task in e.scored:
        slope = task.model.measures.get("calibration_slope")
        large = task.model.measures.get("calibration_in_the_large")
        if slope and large:
            risks = [interval("calibration_slope", slope), interval("calibration_in_the_large", large, sign=True)]
            out.append(f"Risks of {task.title} are as calibrated as this: {'; '.join(risks)} (right: 1 and 0).")
        if (lead := task.model.differences.get("auroc")) and not lead.low > 0:
            lag = f"it is not shown to be ahead of {baseline(task)}: {interval('auroc', lead, True)} more"
            out.append(f"On {task.title} {lag}.")
        if (bounded := task.model.shares.get("bounded")) is not None and bounded > 0:
            cut = significant(100 * bounded)
            out.append(f"{cut} % of the simulated futures for {task.title} were cut off by their length.")
    if e.cell.edge:
        out.append(f"Outside of what the rules for batch and rate were explored on: its {e.cell.edge}.")
    for name, value, _, verdict in laws(e):
        if not verdict.supported:
            out.append(f"{name} is {'not told' if value == DASH else value}, {verdict.word}: {verdict.reason}.")
    out.append("Loss a token compares models of one vocabulary only, and the patients are all of the same records.")
    return [*out, f"What else to doubt of the study: {REPORT}, Limits."]


def membership(e: Evidence) -> tuple[str, Measure] | None:
    """How well an attack tells whom the model was trained on, and by what: the stronger of those that are fair."""
    measures = e.audit.measures if e.audit else {}
    if e.audit and e.audit.fair and RATIO in measures:
        return "by its loss less that of a model that never read them", measures[RATIO]
    return ("by its loss", measures[LOSS]) if LOSS in measures else None


def _privacy(e: Evidence) -> str:
    if e.audit is None:
        return "It was not audited: nobody knows what it gives away of the patients it was trained on (launch.audit)."
    if (known := membership(e)) is None:
        return "It was audited on too few patients to tell what it gives away of those it was trained on."
    how, measure = known
    return (
        f"Who was in its training is told from who was not, {how}: membership {interval('auroc', measure)}, where .5 "
        "is chance; another attack may tell more."
    )


def _standing(word: Verdict) -> str:
    return f"**{word.word}**: {word.reason}."


def _what(e: Evidence) -> str:
    loss = f"{e.result['validation_loss']:.4f} ± {e.result['validation_loss_se']:.4f} nats a token"
    return (
        f"A decoder of {count(e.cell.N_body)} body parameters that gives the probability of the next token of a "
        f"patient's record; validation loss {loss} (standard error over patients). It is one of "
        f"{plural(e.finished, 'finished run')} of a study of scaling laws."
    )


def _law(e: Evidence) -> str:
    told = "; ".join(
        f"{name} is {'not told' if value == DASH else f'{value} ({ends})'}, {verdict.word}"
        for name, value, ends, verdict in laws(e)
    )
    return f"What the study says: {told}."


def _kind(e: Evidence) -> str:
    c = e.cell
    head = f"{c.N_head:,} in the head" + (f", {c.N_embedding:,} in the embedding" if c.N_embedding else "")
    mixing = f", mixing of neighbours {c.mixing}" if c.mixing != "none" else ""
    passes = significant(e.result.get("passes", c.tokens / c.unique_tokens), 3)
    return (
        f"Decoder transformer, width {c.width}, {plural(c.layers, 'layer')}, {plural(c.heads, 'head')}, inner width "
        f"{c.ff}{mixing}; N = {c.N_body:,} parameters in the body, {head}. Trained on D = {c.tokens:,} tokens "
        f"({passes} passes) with C = {power(c.flops)} FLOPs, counted; {c.optimizer}, "
        f"rate {significant(c.learning_rate)}, {c.schedule}, {c.batch_tokens:,} tokens a step, "
        f"{c.steps:,} steps; seed {c.seed}, of the seeds {', '.join(map(str, e.seeds))} that were run."
    )


def _development(e: Evidence) -> str:
    splits = "; ".join(
        f"{split}: {e.words(s['patients'])} patients, {e.words(s['tokens'])} tokens, {e.words(s['events'])} events"
        for split in ("train", "validation", "test")
        if (s := e.timelines["summary"][split])
    )
    trained = (
        f"This model was trained on {e.words(e.cell.patients)} patients with {e.words(e.cell.unique_tokens)} tokens."
    )
    return f"{'Generated' if e.generated else 'Real'} patients; {splits}. {trained} No patient is in two splits."


def _third_parties(e: Evidence) -> str:
    maps = sorted(e.fitted.settings.get("code_maps") or ())
    return f"Records: {e.source}. Code maps: {', '.join(maps) or 'none'}."


def _population(e: Evidence) -> str:
    return "\n".join(f"- {task.title}: {who}" for task in e.scored if (who := _line(eligible(task))))


def eligible(task: ScoredTask) -> str:
    """Who is asked about in a task, and when."""
    spec = task.inputs.get("task", {})
    parts = [_when(spec)]
    parts += [f"age at least {spec['min_age']:g}"] if spec.get("min_age") else []
    parts += [f"without {', '.join(spec['without'])} before"] if spec.get("without") else []
    parts += ["who never had the outcome"] if spec.get("onset") else []
    return ", ".join(parts)


def _when(spec: dict[str, Any]) -> str:
    """When the prediction is made: by a time after the anchor or by tokens after it, of which one is not null."""
    anchor = " or ".join(spec.get("anchor") or ())
    if not anchor:
        return "at the times of label files"
    if spec.get("hours") is not None:
        return f"{spec['hours']:g} hours after {anchor}"
    more = spec.get("tokens") or 0
    if more < 0:
        return f"just before {anchor}"
    return f"at {anchor}" + (f", with {plural(more, 'token')} after it" if more else "")


def _outputs(e: Evidence) -> str:
    return "\n".join(
        f"- {task.title}: {_line(str(task.about.get('description') or ''))} Told as "
        f"{ {'binary': 'a probability', 'days': 'a number of days'}.get(task.about.get('kind', 'binary'), 'a class') }."
        for task in e.scored
    )


def _biases(e: Evidence) -> Field:
    path, label = MODEL + "Warnings/KnownBiasesOrEthicalConsiderations", "Biases and ethics"
    left, who = "other biases, and ethical considerations", AUTHORS
    texts = [text for task in e.scored if (text := _unequal(task))]
    return Field(path, label, "\n".join(f"- {text}" for text in texts), SCORE if texts else "", left, who)


def _unequal(task: ScoredTask) -> str:
    """How far groups are from all others where an interval tells it, and how far they may be where none does."""
    texts = []
    for name in OF_GAP:
        gaps = [(group_name(group), group.gaps[name]) for group in told_groups(task) if name in group.gaps]
        parts = [f"{who} {signed(gap.value, 3)} ({span(gap[1:3])})" for who, gap in gaps if gap.told]
        if untold := [(gap.could_hide, who) for who, gap in gaps if not gap.told]:
            most, who = max(untold)
            parts.append(f"{plural(len(untold), 'group')} not told apart, but {decimal(most)} could hide ({who})")
        texts += [f"{NAMES[name]} of a group less that of all others: {', '.join(parts)}"] if parts else []
    return f"{task.title}: {'; '.join(texts)}." if texts else ""


def baseline(task: ScoredTask) -> str:
    """The one that the model is compared with."""
    return task.baselines[0].name if task.baselines else "the baseline"


def told_groups(task: ScoredTask) -> list[Group]:
    """The groups of patients whose scores may be told."""
    return [group for group in task.model.groups if not group.suppressed]


def group_name(group: Group) -> str:
    return f"{title(group.attribute)} {title(group.name) if group.attribute != 'age' else group.name}"


def _line(text: str) -> str:
    return " ".join(text.split())
