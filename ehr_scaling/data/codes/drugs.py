"""Drug names as hospitals write them ("OxyCODONE (Immediate Release) 5 mg") to ingredients ("OXYCODONE").

The lexicon, `drug_names.txt` and `drug_words.txt`, was written for this program from general knowledge. An ingredient
has its US generic name, upper case, "_" for blanks; the ingredients of a combination are sorted and joined by "-".
Salt, strength, form, route and release are no part of it: one drug, one name. Salts that are the drug (potassium
chloride, ferrous sulfate) are entries of their own. All insulins are INSULIN: most charts say no more than that.
"""

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from importlib import resources
from itertools import accumulate
from typing import NamedTuple

Ingredients = tuple[str, ...]

_SHORTEST_CUT = 8  # letters by which a name that a cabinet's display cut off ("Vancomyci") is still known
_LONGEST = 80  # characters of a normalised name: text that somebody pasted into a name is cut

_VEHICLES = frozenset(["DEXTROSE", "LACTATED_RINGERS", "SODIUM_CHLORIDE", "WATER"])
_FLUIDS = _VEHICLES | {"POTASSIUM_CHLORIDE"}
_FILES = resources.files(__package__)
_BRACKETS = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]|\{([^{}]*)\}|[(\[{](.*)$", re.DOTALL)
_WORD = re.compile(r"[A-Z0-9.%]+")


def _sections(text: str) -> dict[str, frozenset[str]]:
    sections: dict[str, set[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            sections[section] = set()
        elif line and not line.startswith("#"):
            sections[section].update(line.split())
    return {name: frozenset(words) for name, words in sections.items()}


_WORDS = _sections((_FILES / "drug_words.txt").read_text(encoding="utf-8"))
_SALTS, _MODEST, _VOID = _WORDS["salts"], _WORDS["modest"], _WORDS["void"]
_NOISE = _SALTS | _WORDS["noise"] | _WORDS["suffixes"]


class _Word(NamedTuple):
    text: str
    joined: bool  # a hyphen, a slash, "and" ... stands before it, not only a blank


class _Lexicon(NamedTuple):
    phrases: dict[tuple[str, ...], Ingredients]  # the words of a name → its ingredients
    longest: int  # words of the longest name
    cut: dict[str, Ingredients | None]  # a name of one word without its end; None where two drugs begin so


@lru_cache(maxsize=1 << 16)
def ingredient(name: str) -> str | None:
    """The ingredient, or the sorted ingredients joined by "-", of a drug as a hospital writes it; None if not known.

    "Insulin Human Regular 100 unit/mL" → "INSULIN", "oxycodone-acetaminophen" → "ACETAMINOPHEN-OXYCODONE",
    "Heparin 25,000 units in D5W" → "HEPARIN". What it gives is a name that it maps to itself. A combination one part
    of which is not known is not known.
    """
    text = _clean(name)
    whole = _words(_BRACKETS.sub(lambda m: f" {_inside(m)} ", text))
    if any(word.text in _VOID for word in whole):
        return None
    ingredients = lexicon().phrases.get(tuple(word.text for word in whole))  # brackets that are part of a name
    if ingredients is None:
        ingredients = _recognise(_words(_outside(text)))
    if ingredients is None:
        inner = (_recognise(_words(_inside(match)), strict=True) for match in _BRACKETS.finditer(text))
        ingredients = next(filter(None, inner), None)
    return "-".join(ingredients) if ingredients else None


@lru_cache(maxsize=1 << 16)
def normalised(name: str) -> str:
    """A name that is not recognised, made comparable: upper case, no brackets, strengths or forms; "_" between words.

    At most 80 characters, of A-Z, 0-9, "." , "%" and "_". "UNK" where nothing is left.
    """
    text = _clean(name)
    whole = [word.text for word in _words(_BRACKETS.sub(lambda m: f" {_inside(m)} ", text))]
    for words in ([word.text for word in _words(_outside(text))], whole):
        if kept := [word for word in words if word not in _NOISE - _SALTS and not word[0].isdigit()]:
            break
    kept = kept or whole or ["UNK"]
    ends = [*accumulate(len(word) + 1 for word in kept)]
    return "_".join(kept[: bisect_right(ends, _LONGEST + 1)]) or kept[0][:_LONGEST].rstrip(".")


@lru_cache(maxsize=1)
def lexicon() -> _Lexicon:
    """The names of `drug_names.txt` as words. Every ingredient is a name of itself."""
    phrases: dict[tuple[str, ...], Ingredients] = {}
    text = (_FILES / "drug_names.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        entry, _, others = line.partition("=")
        if not entry.strip() or entry.startswith("#"):
            continue
        ingredients = tuple(entry.strip().split("-"))
        for name in (entry, *others.split(",")):
            words = tuple(word.text for word in _words(_clean(name)))
            if words and phrases.setdefault(words, ingredients) != ingredients:
                raise ValueError(f"drug_names.txt gives {name.strip()} to {entry.strip()} and to another")
    cut: dict[str, Ingredients | None] = {}
    for words, ingredients in phrases.items():
        if len(words) == 1:
            for end in range(max(_SHORTEST_CUT, len(words[0]) - 4), len(words[0])):
                cut[words[0][:end]] = ingredients if cut.get(words[0][:end], ingredients) == ingredients else None
    return _Lexicon(phrases, max(map(len, phrases)), cut)


def _clean(name: str) -> str:
    """Upper case ASCII without accents, apostrophes and *marks*; "WITH", "AND", "W/" as "+"."""
    text = unicodedata.normalize("NFKD", name).upper().replace("_", " ").replace("'", "")
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"\*[A-Z ]{1,12}\*", " ", text)
    text = re.sub(r"\bB-(?=\d)|\bD-(?=[23]\b)", lambda m: m[0][0], text)  # vitamins B-12, D-3
    return re.sub(r"\bW/|\bWITH\b|\bAND\b", "+", text)


def _inside(match: re.Match) -> str:
    return next(filter(None, match.groups()), "")


def _outside(text: str) -> str:
    """Without brackets, but for those that go on with the name: "Lidocaine (with epinephrine)"."""
    return _BRACKETS.sub(lambda m: f" {_inside(m)} " if _inside(m).lstrip().startswith("+") else " ", text)


def _words(text: str) -> list[_Word]:
    words: list[_Word] = []
    end = 0
    for match in _WORD.finditer(text):
        if word := match[0].strip("."):
            gap = text[end : match.start()]
            # " - " begins a remark ("Diazepam - CIWA protocol"), a hyphen without blanks joins.
            joined = bool(words) and bool(re.search(r"[-/+&,;]", gap)) and not re.fullmatch(r"\s+-\s+", gap)
            words.append(_Word(word, joined))
        end = match.end()
    return words


def _recognise(words: list[_Word], strict: bool = False) -> Ingredients | None:
    """Ingredients of a name without brackets; None if there are none, or if it may be a drug that is not known.

    Words that are neither an ingredient nor noise are remarks after a blank ("Furosemide Drip Protocol XY") and end
    the name; before the first ingredient, or joined to one by a hyphen, they are taken for an unknown drug.
    strict: any such word is.
    """
    phrases, longest, cut = lexicon()
    words = _without_vehicle(words)
    matches: list[tuple[Ingredients, bool]] = []
    salt = False  # the last word was an ingredient, or belongs to one, so that a salt may follow
    at = 0
    while at < len(words):
        word = words[at]
        if salt and not word.joined and word.text in _SALTS:
            at += 1
            continue
        for end in range(min(len(words), at + longest), at, -1):
            if match := phrases.get(tuple(word.text for word in words[at:end])):
                break
        else:
            end, match = at + 1, None if word.text in _NOISE else cut.get(word.text)
        if match:
            matches.append((match, word.joined))
            salt = match[-1] not in _FLUIDS
            at = end
            continue
        if word.text[0].isdigit():
            salt = False
        elif word.text == "FREE" and word.joined and salt:
            return None
        elif word.text not in _NOISE:
            if strict or word.joined or not matches or {match[0] for match, _ in matches} <= _MODEST:
                return None
            break
        at += 1
    return _combined(matches)


def _without_vehicle(words: list[_Word]) -> list[_Word]:
    """Up to "in" or "for", with which a vehicle or an indication begins, if it is in no name ("Fer-In-Sol")."""
    phrases, longest, _ = lexicon()
    texts = tuple(word.text for word in words)
    for k, text in enumerate(texts):
        names = (texts[a:b] for a in range(max(0, k - longest), k) for b in range(k + 1, a + longest + 1))
        if text in ("IN", "FOR") and not any(name in phrases for name in names):
            return words[:k]
    return words


def _combined(matches: list[tuple[Ingredients, bool]]) -> Ingredients | None:
    """Ingredients, sorted, of what was found as (ingredients, joined to what stands before)."""
    links = [*(joined for _, joined in matches), False]
    kept = {
        one
        for k, (match, _) in enumerate(matches)
        for one in match
        if len(matches) == 1 or one not in _MODEST or links[k] or links[k + 1]
    }
    if not kept <= _FLUIDS:  # a drug in a bag of fluid is that drug
        kept -= _VEHICLES
    if len(kept) > 1:
        kept -= {"WATER"}
    names = tuple(sorted(kept))
    # Parts that together are an entry of their own: "calcium" and "vitamin D".
    return lexicon().phrases.get(tuple(word.text for word in _words(_clean("-".join(names)))), names) or None
