"""Presets: how a code of events/ becomes tokens. One rule a distinct code; rows never come here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.presets import clean, ethos
from ehr_scaling.data.presets.rule import Rule, nothing
from ehr_scaling.data.vocabulary import AGE_STYLES, END, PAD, UNK, intervals, quantile_names

# Families of the codes that our own sources write: their names tell nothing about a patient
_NAMES = """GENDER RACE MEDS_BIRTH MEDS_DEATH ED_REGISTRATION ED_OUT ACUITY HOSPITAL_ADMISSION INSURANCE MARITAL_STATUS
MARITAL HOSPITAL_DISCHARGE DIAGNOSIS PROCEDURE DRG MEDICATION HCPCS LAB VITAL BMI TRANSFER_TO SERVICE ICU_ADMISSION
ICU_DISCHARGE SOFA CHART INFUSION_START INFUSION_END SUBJECT_FLUID_OUTPUT OBS"""
FAMILIES = frozenset(_NAMES.split())
_MOST_ANCESTORS = 32  # of a code: an ontology that is deeper, or turns in a circle, is not followed further


Parents = Mapping[str, Sequence[str]]  # the codes above each code in an ontology, by code
NO_PARENTS: Parents = {}


class Preset(NamedTuple):
    """One published way of making tokens."""

    rule: Callable[[str, CodeMaps, int], Rule]  # (code, maps, code_depth)
    options: dict[str, Any]  # that differ from tokenizer.COMMON
    breaks: Mapping[str, tuple[float, ...]]  # of scales that are not fitted
    bare_intervals: bool = False  # "5m-15m", "=6mt" instead of TIME//5m-15m, TIME//6mt
    fixed_slots: bool = False  # the prefix holds the families of timed_context, in that order, found or not
    constant_scales: bool = False  # a scale with one value gets Q tokens too
    family_unknown: bool = True  # what is not known may become FAMILY//UNK; else it is UNK at once
    since_1970: bool = False  # what is before 1970 is left out


PRESETS = {
    "clean": Preset(clean.rule, {"value_tokens": "fused"}, clean.BREAKS),
    "ethos_ares": Preset(
        ethos.ares,
        {
            "intervals": 19,
            "top_labs": 200,
            "timed_context": ("BMI", "GENDER", "MARITAL", "RACE"),
            "age": "two-quantiles",
            "context_time": "single",
            "min_count": 1,
            "min_values": 1,
        },
        ethos.BREAKS,
        bare_intervals=True,
        fixed_slots=True,
        constant_scales=True,
        family_unknown=False,
        since_1970=True,
    ),
    "ethos_paper": Preset(
        ethos.paper,
        {
            "top_labs": 200,
            "timed_context": ("GENDER", "MARITAL", "RACE", "BMI"),
            "context_only": ("GENDER", "RACE", "MARITAL", "BMI"),
            "age": "age-and-year",
            "context_time": "last",
            "min_count": 1,
            "min_values": 1,
        },
        ethos.BREAKS,
        bare_intervals=True,
        fixed_slots=True,
        constant_scales=True,
        family_unknown=False,
        since_1970=True,
    ),
}


class Rules:
    """The rule of each code under some settings, each worked out once."""

    def __init__(self, settings: Mapping[str, Any], maps: CodeMaps) -> None:
        self.settings, self.maps, self.preset = dict(settings), maps, PRESETS[settings["preset"]]
        self.intervals = intervals(settings["intervals"], self.preset.bare_intervals)
        special = (PAD, UNK, END, *self.intervals, *quantile_names(settings["bins"]))
        self._reserved = frozenset((*special, *AGE_STYLES[settings["age"]][0]))
        self._rules: dict[str, Rule] = {}

    def __call__(self, code: str) -> Rule:
        if (rule := self._rules.get(code)) is None:
            rule = self._rules[code] = self._make(code)
        return rule

    def _make(self, code: str) -> Rule:
        if not code.strip():
            return nothing("an empty code")
        rule = self.preset.rule(code, self.maps, self.settings["code_depth"])
        if code in self._reserved or any(token in self._reserved for path in rule.paths for token in path):
            return Rule(((UNK,),))  # a source cannot reach the tokens that have a meaning of their own
        if rule.is_lab and self.settings["top_labs"]:
            rule = rule._replace(unseen="drop")
        # Fused tokens are named as their scale, by which they are merged (see rare.collapse).
        if rule.scale and self.settings["value_tokens"] == "fused" and rule.paths == ((rule.scale,),):
            rule = rule._replace(fused=True)
        return rule

    def ancestors(self, code: str, parents: Parents) -> list[tuple[tuple[str, ...], ...]]:
        """Paths of the codes above `code` in the ontology `parents`, the nearest first."""
        seen, level, paths = {code}, [code], []
        while level and len(seen) <= _MOST_ANCESTORS:
            above = dict.fromkeys(p for c in level for p in parents.get(c) or () if p and p not in seen)
            level = sorted(above)
            seen.update(level)
            paths += [rule.paths for p in level if (rule := self(p)).paths and rule.paths != ((UNK,),)]
        return paths


_last: Rules | None = None


def rules(settings: Mapping[str, Any], maps: CodeMaps) -> Rules:
    """Rules for these settings and maps; those of the last call where they are the same, with what they know."""
    global _last
    if _last is None or _last.settings != dict(settings) or _last.maps is not maps:
        _last = Rules(settings, maps)
    return _last
