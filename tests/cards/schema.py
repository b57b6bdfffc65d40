"""Reading a model card in XML, and what is wrong with it by the schema."""

import json
from xml.etree import ElementTree

from ehr_scaling.cards import chai

XS = "{http://www.w3.org/2001/XMLSchema}"
CHAI = f"{{{chai.NAMESPACE}}}"
# The schema v0.2 in our own words: of each element its children in order; ? for those that it does without
METRIC = "MetricGoal Results Interpretation TestType TestingDataDescription ValidationProcessAndJustification"
SCHEMA = {
    "AppliedModelCard": "BasicInfo ReleaseInfo ModelSummary UsesAndDirections Warnings TrustIngredients KeyMetrics "
    "Resources Bibliography",
    "BasicInfo": "ModelName ModelDeveloper DeveloperContact",
    "ReleaseInfo": "ReleaseStage ReleaseDate ReleaseVersion GlobalAvailability EHRCompatibility? RegulatoryApproval?",
    "ModelSummary": "Summary Keywords",
    "UsesAndDirections": "IntendedUseAndWorkflow PrimaryIntendedUsers HowToUse TargetedPatientPopulation "
    "CautionedOutOfScopeSettings",
    "Warnings": "KnownRisksAndLimitations KnownBiasesOrEthicalConsiderations ClinicalRiskLevel",
    "TrustIngredients": "AISystemFacts TransparencyInformation",
    "AISystemFacts": "OutcomesAndOutputs ModelType FoundationModels? InputDataSource OutputAndInputDataTypes "
    "DevelopmentDataCharacterization BiasMitigationApproaches OngoingMaintenance Security? Transparency?",
    "TransparencyInformation": "FundingSource ThirdPartyInformation? StakeholdersConsulted",
    "KeyMetrics": "UsefulnessUsabilityEfficacy FairnessEquity SafetyReliability",
    **dict.fromkeys(("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"), METRIC),
    "Resources": "EvaluationReferences? ClinicalTrial? PeerReviewedPublications ReimbursementStatus? "
    "PatientConsentOrDisclosure",
}


def root_of(path):
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def text_at(root, path):
    return root.find("/".join(CHAI + name for name in path.split("/"))).text


def results_of(root):
    """Label: value, of all results."""
    return {
        entry.find(f"{CHAI}Label").text: json.loads(entry.find(f"{CHAI}ValueJson").text)
        for entry in root.iter(f"{CHAI}MetricResult")
    }


def ordered(node, expected):
    """What is wrong with the children of a node. expected: [(name, least, most)] in order."""
    names, at, wrong = [child.tag.removeprefix(CHAI) for child in node], 0, []
    for name, least, most in expected:
        count = 0
        while at < len(names) and names[at] == name and count < most:
            at, count = at + 1, count + 1
        if count < least:
            wrong.append(f"{node.tag}: {name} is missing")
    return wrong + [f"{node.tag}: {name} is out of place" for name in names[at:]]


def problems(root):
    wrong = [] if root.tag == f"{CHAI}AppliedModelCard" else ["another root"]
    for node in root.iter():
        name = node.tag.removeprefix(CHAI)
        if name in SCHEMA:
            expected = [(n.rstrip("?"), 0 if n.endswith("?") else 1, 1) for n in SCHEMA[name].split()]
            wrong += ordered(node, expected)
        elif name == "Results":
            wrong += ordered(node, [("MetricResult", 1, 10**6)])
        elif name == "MetricResult":
            wrong += ordered(node, [("Label", 1, 1), ("ValueJson", 1, 1)])
        elif name == "Keywords":
            wrong += ordered(node, [("Keyword", 0, 10**6)])
        elif not (node.text or "").strip() or len(node):
            wrong.append(f"{name} is no text")
    return wrong


def types_of(schema):
    """Of every type of an XSD, and of its root: (name, type, least, most) in order. Sequences of elements alone."""

    def bounds(node):
        most = node.get("maxOccurs", "1")
        return int(node.get("minOccurs", "1")), 10**6 if most == "unbounded" else int(most)

    def particles(complex_type):
        sequence = complex_type.find(f"{XS}sequence")
        outer = bounds(sequence)
        for element in sequence.findall(f"{XS}element"):
            low, high = bounds(element)
            yield element.get("name", "Signature"), element.get("type", ""), low * outer[0], high * outer[1]

    found = {t.get("name"): list(particles(t)) for t in schema.findall(f"{XS}complexType")}
    card = schema.find(f"{XS}element")
    return {**found, "": list(particles(card.find(f"{XS}complexType")))}


def against(node, kind, types):
    wrong = ordered(node, [(name, low, high) for name, _, low, high in types[kind]])
    of = {name: kind.removeprefix("mc:") for name, kind, _, _ in types[kind]}
    for child in node:
        inner = of.get(child.tag.removeprefix(CHAI), "xs:string")
        wrong += against(child, inner, types) if inner in types else [f"{child.tag} holds elements"] * bool(len(child))
    return wrong
