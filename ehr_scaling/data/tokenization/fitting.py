"""The vocabulary of the train split, made of the sum of what its shards counted."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ehr_scaling.data import presets
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.events import events
from ehr_scaling.data.presets import NO_PARENTS, Parents, Rules
from ehr_scaling.data.presets.rule import REPEATS
from ehr_scaling.data.tokenization.counting import Counts
from ehr_scaling.data.tokenization.tokenizer import is_event, slot_family
from ehr_scaling.data.vocabulary import AGE_STYLES, END, PAD, UNK, UNKNOWN, Vocabulary, family, quantile_names
from ehr_scaling.errors import UserError

Paths = tuple[tuple[str, ...], ...]
FEWEST_LOST = 50  # events of a family without any token from which on it stops the work
MOST_SLOTS = 32  # a prefix longer than this is not what anyone wants, and hides a source that has no times


def fit(counts: Counts, settings: Mapping[str, Any], maps: CodeMaps, parents: Parents = NO_PARENTS) -> Vocabulary:
    """Vocabulary, context slots and quantile breaks of the train split.

    Counts are those of codes; they are replaced by those of tokens once train is tokenized. With min_patients the
    result is a draft: see `collapse`.

    Raises: UserError when too many families have no time.
    """
    rules = presets.rules(settings, maps)
    breaks = _breaks(counts, rules)
    slots = _slots(counts, rules)
    draft = _Draft(counts, rules, breaks, slots, parents)
    order, numbers = draft.order()
    return dataclasses.replace(
        draft.vocabulary,
        tokens=tuple(draft.vocabulary.tokens[i] for i in order),
        counts=tuple(numbers[i] for i in order),
        quantiles={scale: breaks[scale] for scale in sorted(draft.scales())},
        settings={**settings, "code_maps": dict(maps.files)},
    )


def check_families(counts: Counts, settings: Mapping[str, Any], maps: CodeMaps, may_lose: Sequence[str] = ()) -> None:
    """Raises UserError where the preset `clean` makes no token of any code of a family that has many events.

    Published presets leave whole families out, as they are published. Args: may_lose, families that may vanish.
    """
    if settings["preset"] != "clean":
        return
    rules = presets.rules(settings, maps)
    seen, kept, why = collections.Counter[str](), {events.BIRTH}, dict[str, str]()
    for code, n in counts.codes.items():
        rule, name = rules(code), family(code)
        seen[name] += n.timed + n.static
        if rule.why_not in ("", REPEATS):
            kept.add(name)
        else:
            why.setdefault(name, rule.why_not)
    for name, many in seen.most_common():
        if many >= FEWEST_LOST and name not in kept and name not in may_lose:
            told = name if name in presets.FAMILIES else "a family"
            raise UserError(
                f"none of the {many:,} events of {told} of the train split would become a token ({why[name]}): mend "
                f"the source, or let it be so with --config.data.may_lose=\"('{told}',)\""
            )


def _breaks(counts: Counts, rules: Rules) -> dict[str, tuple[float, ...]]:
    settings, preset = rules.settings, rules.preset
    quantiles = counts.values.breaks(settings["bins"], settings["min_values"], preset.constant_scales)
    breaks = {name: tuple(map(float, quantiles[i])) for name, i in counts.scales.items() if i in quantiles}
    # A fixed scale has at most as many bins as there are tokens for them.
    fixed = {name: tuple(float(np.float32(v)) for v in values) for name, values in preset.breaks.items()}
    return breaks | {k: v for k, v in fixed.items() if k in breaks and len(v) < settings["bins"]}


def _slots(counts: Counts, rules: Rules) -> list[str]:
    settings = rules.settings
    if rules.preset.fixed_slots:
        return list(settings["timed_context"])
    families = {code: slot_family(rules(code), code) for code in counts.codes}
    # A death or birth without a time would be an answer given in advance.
    no_time = {families[code] for code, n in counts.codes.items() if n.static} - {events.BIRTH, events.DEATH}
    if len(no_time) > MOST_SLOTS:
        known = sorted(name for name in no_time if name in presets.FAMILIES)[:3]
        raise UserError(
            f"{len(no_time)} families of codes have no time{', such as ' if known else ''}{', '.join(known)}: at most "
            f"{MOST_SLOTS} can be static context; give the others a time in the source or leave them out"
        )
    least = settings["min_patients"]
    if least:
        # The name of a family that few patients have would be a token: SLOT//UNKNOWN.
        seen: collections.Counter[str] = collections.Counter()
        for code, n in counts.codes.items():
            seen[families[code]] = max(seen[families[code]], n.patients)
        no_time = {name for name in no_time if seen[name] >= least}
    timed = {families[code] for code, n in counts.codes.items() if n.timed}
    later = [name for name in settings["timed_context"] if name in timed and name not in no_time]
    return sorted(no_time) + later


class _Draft:
    """The choice of tokens and their order: see Vocabulary.tokens."""

    def __init__(
        self, counts: Counts, rules: Rules, breaks: dict[str, tuple[float, ...]], slots: list[str], parents: Parents
    ) -> None:
        self.counts, self.rules, self.breaks, self.parents = counts, rules, breaks, parents
        settings = rules.settings
        self.codes = {
            code: n.valued if rules(code).needs_value else n.timed
            for code, n in sorted(counts.codes.items())
            if n.timed and is_event(rules(code), code, settings) and self._kept(code)
        }
        if settings["top_labs"]:
            labs: collections.Counter[str] = collections.Counter()
            for code, n in self.codes.items():
                if rules(code).is_lab:
                    labs[rules(code).paths[0][0]] += n
            ranked = sorted(labs, key=lambda lab: (-labs[lab], lab))
            beyond = set(ranked[settings["top_labs"] :])
            self.codes = {
                code: n
                for code, n in self.codes.items()
                if not (rules(code).is_lab and rules(code).paths[0][0] in beyond)
            }
        head = self._head(counts, slots)
        blocks = self._blocks(counts, set(head))
        self.unknown = {block[0] for block in blocks if block[0].endswith(f"//{UNK}")}
        self.first = len(head)
        self.blocks = blocks
        self.vocabulary = Vocabulary(
            tokens=(*head, *(token for block in blocks for token in block)),
            counts=(),
            context_slots=tuple(slots),
            quantiles={},
            interval_seconds=(),
            settings=settings,
            preset=settings["preset"],
            intervals=tuple(rules.intervals),
            interval_bounds=tuple(rules.intervals.values()),
            bins=settings["bins"],
        )

    def scales(self) -> set[str]:
        """Scales whose values make a token, in the timeline or in the prefix."""
        slots = self.vocabulary.context_slots
        code_rules = [(code, self.rules(code)) for code in self.counts.codes]
        return {
            rule.scale
            for code, rule in code_rules
            if rule.scale in self.breaks and (code in self.codes or slot_family(rule, code) in slots)
        }

    def _kept(self, code: str) -> bool:
        rule = self.rules(code)
        return bool(rule.paths) or rule.scale in self.breaks

    def _head(self, counts: Counts, slots: list[str]) -> list[str]:
        """Special tokens and those of the context; the bins of a slot have consecutive ids."""
        rules, settings = self.rules, self.rules.settings
        seen: dict[str, collections.Counter[str]] = {slot: collections.Counter() for slot in slots}
        bins = dict.fromkeys(slots, 0)
        for code, n in counts.codes.items():
            rule = rules(code)
            if (slot := slot_family(rule, code)) not in seen:
                continue
            if rule.scale in self.breaks:
                bins[slot] = max(bins[slot], len(self.breaks[rule.scale]) + 1)
            elif rule.paths and rule.paths != ((slot,),):
                seen[slot][rule.paths[0][0]] += n.timed + n.static
        context: list[str] = []
        for slot in slots:
            context += [f"{slot}//{value}" for value in (UNKNOWN, *quantile_names(bins[slot]))]
            context += sorted(t for t, n in seen[slot].items() if n >= settings["min_count"] and self._many(counts, t))
        special = (PAD, UNK, END, *rules.intervals, *quantile_names(settings["bins"]))
        return list(dict.fromkeys([*special, *AGE_STYLES[settings["age"]][0], *context]))

    def _many(self, counts: Counts, token: str) -> bool:
        least = self.rules.settings["min_patients"]
        return not least or token == events.DEATH or counts.tokens.get(token, 0) >= least

    def _blocks(self, counts: Counts, head: set[str]) -> list[list[str]]:
        """Tokens of the timeline; those of a code and its fused bins, which have consecutive ids, in one list."""
        rules, least = self.rules, self.rules.settings["min_count"]
        full: collections.Counter[str] = collections.Counter()  # token → events
        fused: dict[str, int] = {}  # token → bins
        plain: set[str] = set()  # tokens that stand for themselves
        for code, n in self.codes.items():
            rule = rules(code)
            for path in rule.paths:
                for token in path:
                    full[token] += n
            if rule.fused and rule.scale in self.breaks:
                token = rule.paths[0][0]
                fused[token] = len(self.breaks[rule.scale]) + 1
                if not rule.needs_value:
                    plain.add(token)
            else:
                plain.update(token for path in rule.paths for token in path)
        bare = {token for token in full if token == family(token)}
        # A bare family name is the last resort of its family already: FAMILY//UNK is for the others.
        unknown: set[str] = set()
        if rules.preset.family_unknown:
            unknown = {f"{family(token)}//{UNK}" for token in full}
            unknown -= {f"{name}//{UNK}" for name in bare if self._many(counts, name)}
        chosen = {t for t, n in full.items() if (n >= least or t == events.DEATH) and self._many(counts, t)}
        ancestors, adopted = self._ancestors(counts, chosen)
        chosen |= ancestors | {t for t in bare - adopted if self._many(counts, t)}
        blocks = [[token] for token in sorted((chosen | unknown) - head) if token in plain or token not in fused]
        for token in sorted(set(fused) & chosen):
            names = [f"{token}//{q}" for q in quantile_names(fused[token])]
            if names[0] not in head:
                blocks.append(names)
        return blocks

    def _ancestors(self, counts: Counts, chosen: set[str]) -> tuple[set[str], set[str]]:
        """Tokens of the nearest ancestor, frequent enough, of each code whose own first token is not chosen; and those
        first tokens that have one."""
        ancestors: set[str] = set()
        adopted: set[str] = set()
        if not self.parents:
            return ancestors, adopted
        full: collections.Counter[str] = collections.Counter()
        above = {code: self.rules.ancestors(code, self.parents) for code in self.codes}
        for code, n in self.codes.items():
            for token in {t for paths in above[code] for path in paths for t in path}:
                full[token] += n
        for code in self.codes:
            rule = self.rules(code)
            if not rule.paths or rule.unseen != "parent" or rule.paths[0][0] in chosen:
                continue
            for paths in above[code]:
                tokens = {t for path in paths for t in path}
                if all(full[t] >= self.rules.settings["min_count"] and self._many(counts, t) for t in tokens):
                    ancestors |= tokens
                    adopted.add(rule.paths[0][0])
                    break
        return ancestors, adopted

    def order(self) -> tuple[list[int], collections.Counter[int]]:
        """Ids of the draft in their final order, and their counts.

        Counted as they will be written: what only ever follows a rarer token is never reached, and goes.
        """
        vocabulary, index = self.vocabulary, self.vocabulary.index
        counts: collections.Counter[int] = collections.Counter()
        for code, n in self.codes.items():
            rule = self.rules(code)
            above: Sequence[Paths] = ()
            if rule.paths and self.parents and rule.paths[0][0] not in index:
                above = self.rules.ancestors(code, self.parents)
            if rule.fused and rule.scale in self.breaks:
                token = rule.paths[0][0]
                if (base := index.get(f"{token}//Q1")) is not None:
                    width = len(self.breaks[rule.scale]) + 1
                    for k in range(width):
                        counts[base + k] += max(1, n // width)
                    if rule.needs_value:
                        continue
                    n = 0  # how many come without a value is known when train is tokenized
            for i in vocabulary.encode(rule.paths, rule.unseen, above)[0]:
                counts[i] += n
        at, reached = self.first, []
        for block in self.blocks:
            ids = list(range(at, at + len(block)))
            at += len(block)
            if any(i in counts for i in ids) or block[0] in self.unknown:
                reached.append((-sum(counts[i] for i in ids), block[0], ids))
        reached.sort()
        return [*range(self.first), *(i for _, _, ids in reached for i in ids)], counts
