"""A model card as XML of CHAI's Applied Model Card, v0.2 (https://mc.chai.org/v0.2/schema.xsd).

Texts may be Markdown there. The names and the order below are facts of the schema; the schema itself is not in here.
"""

import json
import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from ehr_scaling.cards.fields import Field
from ehr_scaling.cards.metrics import KEY, LEVEL, Metric, Result
from ehr_scaling.cards.model import MODEL
from ehr_scaling.data import disclosure

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
ROOT, RESULTS, KEYWORDS = "AppliedModelCard", "Results", "Keywords"
_METRIC = (
    *("MetricGoal", RESULTS, "Interpretation", "TestType", "TestingDataDescription"),
    "ValidationProcessAndJustification",
)
# Elements in the order of the schema: paths of those that hold text; ? behind those that it does without
ELEMENTS = (
    *(f"BasicInfo/{name}" for name in ("ModelName", "ModelDeveloper", "DeveloperContact")),
    *(f"ReleaseInfo/{name}" for name in ("ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability")),
    "ReleaseInfo/RegulatoryApproval?",
    *("ModelSummary/Summary", f"ModelSummary/{KEYWORDS}"),
    *(f"UsesAndDirections/{name}" for name in ("IntendedUseAndWorkflow", "PrimaryIntendedUsers", "HowToUse")),
    *(f"UsesAndDirections/{name}" for name in ("TargetedPatientPopulation", "CautionedOutOfScopeSettings")),
    *(f"Warnings/{name}" for name in ("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations")),
    "Warnings/ClinicalRiskLevel",
    *(f"TrustIngredients/AISystemFacts/{name}" for name in ("OutcomesAndOutputs", "ModelType", "FoundationModels?")),
    *(f"TrustIngredients/AISystemFacts/{name}" for name in ("InputDataSource", "OutputAndInputDataTypes")),
    "TrustIngredients/AISystemFacts/DevelopmentDataCharacterization",
    *(f"TrustIngredients/AISystemFacts/{name}" for name in ("BiasMitigationApproaches", "OngoingMaintenance")),
    *(f"TrustIngredients/AISystemFacts/{name}" for name in ("Security?", "Transparency?")),
    *(f"TrustIngredients/TransparencyInformation/{name}" for name in ("FundingSource", "ThirdPartyInformation?")),
    "TrustIngredients/TransparencyInformation/StakeholdersConsulted",
    *(f"KeyMetrics/UsefulnessUsabilityEfficacy/{name}" for name in _METRIC),
    *(f"KeyMetrics/FairnessEquity/{name}" for name in _METRIC),
    *(f"KeyMetrics/SafetyReliability/{name}" for name in _METRIC),
    *("Resources/EvaluationReferences?", "Resources/ClinicalTrial?", "Resources/PeerReviewedPublications"),
    *("Resources/ReimbursementStatus?", "Resources/PatientConsentOrDisclosure", "Bibliography"),
)
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0, escaped or not


def xml(fields: Sequence[Field], metrics: Sequence[Metric]) -> str:
    """The card. fields: all but the results, in any order; what is open of those that the schema wants is said so, and
    who has to answer; others that are open are left out."""
    by_key = {field.key.removeprefix(MODEL): field for field in fields}
    results = {f"{KEY.removeprefix(MODEL)}{metric.key}/{RESULTS}": metric.results for metric in metrics}
    root = ElementTree.Element(ROOT, {"xmlns": NAMESPACE})
    for element in ELEMENTS:
        path = element.removesuffix("?")
        if path in results:
            _fill(_at(root, path), results[path])
        elif path.endswith(f"/{KEYWORDS}"):
            for word in by_key[path].text.split("; "):
                ElementTree.SubElement(_at(root, path), "Keyword").text = _legal(word)
        elif by_key[path].text or path == element:
            _at(root, path).text = _legal(by_key[path].full_text)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _at(root: ElementTree.Element, path: str) -> ElementTree.Element:
    """The element at a path, made where it is not there."""
    node = root
    for name in path.split("/"):
        child = node.find(name)
        node = ElementTree.SubElement(node, name) if child is None else child
    return node


def _fill(node: ElementTree.Element, results: Sequence[Result]) -> None:
    """At least one result, as the schema wants it."""
    labelled = [(result.label, value(result)) for result in results]
    for label, number in labelled or [("no number that may be told", {"kind": "single", "value": None})]:
        entry = ElementTree.SubElement(node, "MetricResult")
        ElementTree.SubElement(entry, "Label").text = _legal(label)
        ElementTree.SubElement(entry, "ValueJson").text = json.dumps(number, ensure_ascii=False, allow_nan=False)


def value(result: Result) -> dict[str, object]:
    """A number as the cards of the schema's own examples have it: with its interval, as far as there is one. To
    `disclosure.DIGITS`, as in full it would be two counts."""
    number, low, high = (round(end, disclosure.DIGITS) for end in result.measure[:3])
    if math.isnan(low) or math.isnan(high):
        return {"kind": "single", "value": number}
    return {"kind": "estimate_ci", "estimate": number, "lower": low, "upper": high, "level": LEVEL, "unit": ""}


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
