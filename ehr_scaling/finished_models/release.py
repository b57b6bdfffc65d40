"""A trained model that leaves the project: weights, what its tokens mean, and a card that says what it is.

No patient's data goes out: no id, no date, no count of few persons. What the weights themselves remember of patients
nobody can rule out, and the card says so.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling import artifacts, provenance, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.models import export as model_files
from ehr_scaling.outcomes import choosing
from ehr_scaling.training import checkpoint, initial
from ehr_scaling.training.setup import restored_params

VERSION = 1  # of what is made of a run: raise it with every change to that
TOKENS, CARD = "tokens.json", "README.md"
TOKENS_FORMAT = 1
_WIDTH = 116  # of a line of the card


def release(workdir: Path, out: Path, cell: str | None = None) -> dict[str, Any]:
    """A finished run of a work directory → the folder `out`, whole or not at all; nothing where it is there already.

    In it: the files of `models.export`, tokens.json (see `token_facts`), README.md, and artifact.json with checksums
    of all but the card, which its owner completes.

    Args: cell, id of the run; None: of the finished ones that with the least validation loss.
    Returns: {"cell", "size", "validation_loss", "validation_loss_se", "mixing", "files": names}.
    Raises: UserError where there is no such run, `out` holds something else, the timelines are not those of the model,
      or tell of single persons.
    """
    there = Layout(workdir)
    chosen = choosing.best_cell(workdir, cell)
    storage.fetch(there.initial(chosen.size), artifacts.RECORD)
    chosen = replace(chosen, generated=initial.of_generated(chosen, workdir))
    result = checkpoint.result(there.run(chosen.id), chosen.steps) or {}
    storage.fetch(there.timelines)
    vocabulary = timelines.vocabulary(workdir)
    source = artifacts.record(there.timelines)["fingerprint"]
    choosing.check_timelines(chosen, workdir, source, len(vocabulary.tokens), there.timelines)
    if not chosen.generated and (k := vocabulary.settings.get("min_patients", 0)) < disclosure.FEWEST:
        raise UserError(
            f"{there.timelines} keeps tokens that fewer than {disclosure.FEWEST} patients have (min_patients is {k}), "
            "which may point at one of them: prepare and train anew with config.data.tokens.min_patients=10"
        )
    loss = {name: result[name] for name in ("validation_loss", "validation_loss_se")}
    inputs = {"cell": chosen.id, **loss, "vocabulary": vocabulary.fingerprint}
    _make_way(out, inputs)

    def make(folder: Path) -> dict[str, Any]:
        model, params = restored_params(chosen, there.run(chosen.id))
        model_files.save(folder, model, params, chosen.context)
        artifacts.write_json(folder / TOKENS, token_facts(workdir, vocabulary, generated=chosen.generated))
        artifacts.write_text(folder / CARD, card(chosen, result, vocabulary, _of_source(workdir)))
        return {"size": chosen.size, "mixing": chosen.mixing}

    record = artifacts.build(out, inputs, make, changing=(CARD,), version=VERSION)
    return {"cell": chosen.id, **loss, **record["summary"], "files": sorted([CARD, *record["files"]])}


def _make_way(out: Path, inputs: Mapping[str, Any]) -> None:
    """See that `out` is new, empty, or has been made of these inputs."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    elif out.exists():
        known = artifacts.record(out)["inputs"] if (out / artifacts.RECORD).is_file() else {}
        if artifacts.differences(known, dict(inputs)):
            raise UserError(f"--out={out} holds something else: name a folder that is not there yet, or delete it")


def _of_source(workdir: Path) -> dict[str, Any]:
    """Name, release and licence of the records, as far as the events say."""
    about = inspection.events_record(workdir).get("summary", {})
    return {name: about[name] for name in ("version", "license") if about.get(name) is not None}


def token_facts(workdir: Path, vocabulary: Vocabulary, *, generated: bool) -> dict[str, Any]:
    """What the ids that a model reads mean, as JSON for other programs.

    vocabulary: {token: id}, in order. prefix: what each of the first tokens of a row tells. intervals: {token: seconds
    from which on it stands for a gap, and the mean of the train split, None where too few patients have one}. values:
    {scale: edges, ascending}; the token of a value is the Q of 1 + the number of edges strictly below it. settings:
    the tokenizer's options, code_maps by name alone. Counts of tokens stay here.
    """
    bounds = dict(zip(vocabulary.intervals, vocabulary.interval_bounds, strict=True))
    means = dict(zip(vocabulary.intervals, vocabulary.interval_seconds, strict=True))
    known = set(vocabulary.intervals) if generated else _of_many(workdir, vocabulary)
    settings = {**vocabulary.settings, "code_maps": sorted(vocabulary.settings.get("code_maps") or ())}
    return {
        "format": TOKENS_FORMAT,
        "fingerprint": vocabulary.fingerprint,
        "preset": vocabulary.preset,
        "vocabulary": vocabulary.index,
        "prefix": inspection.context_names(vocabulary),
        "intervals": {
            token: {"from_seconds": bound / 1e6, "mean_seconds": round(means[token]) if token in known else None}
            for token, bound in bounds.items()
        },
        "quantile_tokens": vocabulary.quantile_tokens,
        "values": vocabulary.quantiles,
        "settings": settings,
    }


def _of_many(workdir: Path, vocabulary: Vocabulary) -> set[str]:
    """Interval tokens that as many patients of train have as a token needs: the tokenizer keeps them all, and the mean
    of a few gaps would be that of somebody."""
    patients = np.zeros(len(vocabulary.tokens), np.int64)
    first = vocabulary.index[vocabulary.intervals[0]]
    for part in timelines.batches(workdir, "train"):
        owner = np.repeat(np.arange(len(part.subject_ids)), np.diff(part.offsets))
        pairs = np.unique(owner * len(patients) + part.tokens)
        patients += np.bincount(pairs % len(patients), minlength=len(patients))
    least = max(vocabulary.settings["min_patients"], disclosure.FEWEST)
    return {token for k, token in enumerate(vocabulary.intervals) if patients[first + k] >= least}


def card(cell: Cell, result: Mapping[str, Any], vocabulary: Vocabulary, source: Mapping[str, Any]) -> str:
    """The model card, Markdown with the header that model hubs read. Args: result, metrics of the finished run; source,
    version and license of the records. It holds no id, no date, no path, and of real patients rounded counts."""

    def in_words(n: float) -> str:
        return disclosure.words(round(n), cell.generated)

    whose = "generated" if cell.generated else "real"
    measured = result.get("measured_on") or {}
    maps = sorted(vocabulary.settings.get("code_maps") or ())
    versions = provenance.versions(("jax", "flax", "optax"))
    licence = inspection.words(source.get("license", "not stated"))
    data = [
        ("records", cell.data),
        ("their patients", whose),
        ("release of the records", inspection.words(source.get("version", "not stated"))),
        ("their licence", licence),
        ("patients trained on", in_words(cell.patients)),
        ("tokens of their timelines (U)", in_words(cell.unique_tokens)),
        ("passes over them", f"{result['passes']:.2f}"),
        ("tokens trained on (D, padding included)", f"{cell.tokens:,}"),
        ("validation patients", in_words(measured["patients"]) if measured.get("patients") else "not counted"),
        ("tokenizer", f"preset {vocabulary.preset}, {len(vocabulary.tokens):,} tokens"),
        ("code maps, by name", ", ".join(maps) or "none"),
        ("fewest patients of a token", vocabulary.settings.get("min_patients", 0)),
    ]
    head = f"{cell.N_head:,} of the head" + ("" if cell.N_embedding else ", which is the embedding too")
    embedding = f", {cell.N_embedding:,} of the embedding" if cell.N_embedding else ""
    model = [
        ("parameters (N)", f"{cell.N_body:,} of the body, {head}{embedding}"),
        ("shape", f"width {cell.width}, layers {cell.layers}, heads {cell.heads}, inner width of the MLP {cell.ff}"),
        ("context", f"{cell.context:,} tokens"),
        ("compute (C)", f"{cell.flops:.4g} FLOPs, counted; 6ND would be {cell.flops_6nd:.4g}"),
        ("validation loss", f"{result['validation_loss']:.4f} ± {result['validation_loss_se']:.4f} nats a token"),
    ]
    recipe = [
        ("optimizer", f"{cell.optimizer}, weight decay {cell.weight_decay:g}, clip {cell.clip:g}"),
        ("rate", f"{cell.learning_rate:.4g}, {cell.schedule}, {cell.warmup:g} steps of warm-up"),
        ("batch and steps", f"{cell.batch_tokens:,} tokens a step, {cell.steps:,} steps"),
        ("parametrization", f"{cell.parametrization} (nothing of it is left to multiply by)"),
        ("mixing of neighbouring positions", cell.mixing),
        ("dropout", f"{cell.dropout:g}"),
        ("dtype", f"parameters float32, activations in training {cell.dtype}"),
        ("seed", cell.seed),
        ("started from", f"the weights `{cell.init}`" if cell.init else "fresh weights"),
        ("cell", f"`{cell.id}`"),
        ("timelines", f"`{measured.get('timelines_fingerprint', 'not stated')}`"),
        ("exported by", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    parts = {
        "Data": _table(data),
        "Model": f"{_table(model)}\n\n{_filled(_ERROR)}",
        "Recipe": _table(recipe),
        "How to load it": _loading(cell.mixing),
        "What it reads": _filled(_READS),
        "What it must not be used for": _filled(NOT_OF_GENERATED if cell.generated else NOT_OF_REAL),
        "Licence": _filled(_LICENCE if cell.generated else f"{_LICENCE} {_TERMS.format(licence=licence)}"),
    }
    header = "---\nlicense: other\nlibrary_name: transformers\ntags:\n- electronic-health-records\n- ehr_scaling\n---"
    title = f"# {cell.size}: a model of the timelines of {whose} patients"
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    return f"{header}\n\n{title}\n\n{_filled(_LEAD)}\n\n{body}\n"


_LEAD = """A decoder that gives the probability of the next token of a patient's record, trained by ehr_scaling as one
point of a study of scaling laws. It is no assistant and knows no language."""

_ERROR = """The error is the standard error over patients of the validation split: of the sample it was measured on,
not of training, which another seed would have ended elsewhere. The model may have been chosen as the best of a study
by this very loss, which then flatters it a little."""

_READS = """One patient a row: first the tokens of the prefix, then those of the timeline, as ids of `tokens.json`,
which also has the edges by which values become tokens, the classes of time between events, and the tokenizer's
options. Ids beyond the vocabulary do not exist. PAD (id 0) was left out of the loss: set its logit to minus infinity
before a softmax, or leave it to `generate`, which does so by `generation_config.json`. Positions may start anywhere;
a row longer than the context was never seen."""

# What a model must not be used for
NOT_OF_GENERATED = """**Anything about patients.** The patients are generated: their diseases, drugs and fates come from
made-up tables, and nothing that the model learnt of them is medicine. It is for trying programs, testing them and
showing what they do, where no real records may be used."""

NOT_OF_REAL = """**The care of patients.** No regulator has seen it; its risks are calibrated only as far as somebody
measured, and are no advice about anyone. It learnt what was written down in the course of care, and for billing where
there is any, at the places its records come from, with their habits, gaps and inequities, and says nothing yet about
other hospitals, years or groups of patients. **Finding out about persons:** a model can repeat what it read. Whether
this one gives away that somebody was in its data, or what was recorded of them, is known only as far as an audit
(launch.audit) looked. Do not sample from it to publish what comes out as anonymous, and do not try to find anyone."""

_LICENCE = """**Not decided yet: whoever passes this model on writes its licence here, and in the first lines of this
file.** That of ehr_scaling's code (Apache-2.0, which `modeling_ehr_scaling.py` is under, where it is here) is not that
of the weights."""

_TERMS = """Whoever trained on records under terms of use (of these: {licence}) is bound by them in passing on what was
made of those records. Of data for which each reader signs an agreement, assume that each reader of the model has to as
well."""


def _loading(mixing: str) -> str:
    name, trust = ("LlamaForCausalLM", "") if mixing == "none" else ("AutoModelForCausalLM", ", trust_remote_code=True")
    plain = "Its architecture is Llama's, to the last detail."
    mixed = """Its layers read, ahead of attention, the three positions before each, which no class of transformers
    does: `modeling_ehr_scaling.py` beside this file is 60 lines on top of Llama's classes, which you may read before
    you trust them. It keeps no cache, so that each drawn token reads its row anew. With other programs: where Llama
    has x, the stream after `input_layernorm`, this model has x[t] + Σⱼ w[j - 1] · x[t - j], j = 1, 2, 3, of positions
    of the same patient, and w is `model.layers.N.mixing.weight` (3, width)."""
    return f"""\
```python
import json, torch
from transformers import {name}

model = {name}.from_pretrained("this folder"{trust})
ids = json.load(open("this folder/tokens.json"))["vocabulary"]
logits = model(torch.tensor([[ids["UNK"], ids["TIMELINE_END"]]])).logits  # (1, tokens, vocabulary)
logits[..., ids["PAD"]] = -torch.inf
```

{_filled(plain if mixing == "none" else mixed)}

With ehr_scaling, in JAX, to the last bit: `model, params = ehr_scaling.models.export.load(Path("this folder"))`."""


def _line(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {_line(value)} |" for name, value in rows)])


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)
