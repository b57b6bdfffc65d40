"""The settings of a study: under which names it has them, where they are kept, and in what they differ."""

import contextlib
import difflib
import math
import textwrap
from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import artifacts, storage
from ehr_scaling.configs import base
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout

BASE = "configs/base.py"
_FOLDERS, _FILES = ("raw", "ed", "code_maps"), (("data", "split_file"), ("outcome", "file"), ("training", "init_from"))
_WIDTH = 118  # of a line
_LONG = 60  # characters of a value
Change = tuple[Any, Any]  # a setting there, and here
RECALIBRATIONS = ("none", "line", "isotonic")


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of a config, or of what `reportable` gives."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict | dict) else {prefix + name: value}
    return values


def plain(config: ConfigDict) -> dict[str, Any]:
    """A config as JSON has it: tuples are lists, and no limit is "inf"."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: of(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [of(part) for part in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return _renamed({name: of(value) for name, value in config.copy_and_resolve_references().to_dict().items()})


def recalibration(value: Any) -> str:
    """What `outcome.recalibrate` asks for: none, line or isotonic. Raises: UserError when it is none of them."""
    if isinstance(value, bool):  # of earlier configs, flags and work directories
        return "line" if value else "none"
    if value not in RECALIBRATIONS:
        raise UserError(f"--config.outcome.recalibrate={value}: take {', '.join(RECALIBRATIONS)}")
    return str(value)


def _renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """A config, as JSON has it, with values in the words of now: `outcome.recalibrate` was a yes or a no."""
    outcome = tree.get("outcome")
    if isinstance(outcome, dict) and "recalibrate" in outcome:
        outcome["recalibrate"] = recalibration(outcome["recalibrate"])
    return tree


def reportable(config: ConfigDict) -> dict[str, Any]:
    """A config as a public report may show it, `plain` but for paths of the machine: folders are None, files are their
    names alone."""
    public = plain(config)
    public["data"].update(dict.fromkeys(_FOLDERS))
    for group, name in _FILES:
        if path := public[group][name]:
            public[group][name] = Path(path).name
    return public


def changes(settings: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Change]:
    """{dotted name: (value before, value now)} of the settings, as `plain` or `reportable` has them, that differ from
    those of configs/base.py, or from `before`, which may lack some that an earlier version did not have."""
    old = flat(plain(base.get_config())) | flat(before or {})
    return {name: (old.get(name), value) for name, value in flat(settings).items() if old.get(name) != value}


def shown(value: Any) -> str:
    """A value of `plain` in a line or a table; of long lists the number of their entries."""
    if isinstance(value, list):
        text = f"({', '.join(map(shown, value))})"
        return text if len(text) <= _LONG else f"{len(value)} entries"
    return f"{value:g}" if isinstance(value, float) else str(value) or repr(value)


def listing(config: ConfigDict) -> str:
    """Every setting, one a line; those that configs/base.py has otherwise with a star, and what that has."""
    changed, before = changes(plain(config)), flat(base.get_config())
    return "\n".join(
        f"{'*' if name in changed else ' '} {name} = {value!r}"
        + (f"  # {BASE}: {before[name]!r}" if name in changed else "")
        for name, value in flat(config.copy_and_resolve_references()).items()
    )


def differences(config: ConfigDict, workdir: Path) -> list[str]:
    """Lines that say in which settings a config differs from configs/base.py, and from those that a work directory was
    made with. None for what does not differ."""
    here, last = plain(config), _last(workdir)
    lines = [_line(f"settings that differ from {BASE}", "not", changes(here))]
    if last is not None:
        lines.append(_line(f"settings that differ from those that {workdir} was made with", "was", changes(here, last)))
    return [line for line in lines if line]


def take_kept(config: ConfigDict, workdir: Path, but: Collection[str]) -> None:
    """Set a config to the settings that a work directory was made with, where it keeps some, `but` for some fields."""
    last, known = flat(_last(workdir) or {}), flat(config)
    for name, value in last.items():
        if name in known and name not in but:
            *groups, field = name.split(".")
            as_float = isinstance(known[name], float) and value is not None  # "inf", and whole numbers
            reduce(getitem, groups, config)[field] = float(value) if as_float else _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _last(workdir: Path) -> dict[str, Any] | None:
    """The settings that a work directory was made with. Raises: UserError where they are damaged."""
    path = Layout(workdir).config
    storage.fetch(path)
    if not path.is_file():
        return None
    last = artifacts.read_json(path, "delete it")
    if not isinstance(last, dict):
        raise UserError(f"{path} is damaged: delete it")
    return _renamed(last)


def _line(about: str, word: str, changed: Mapping[str, Change]) -> str:
    text = "; ".join(f"{name}={shown(here)} ({word} {shown(there)})" for name, (there, here) in changed.items())
    return textwrap.fill(f"{about}: {text}", _WIDTH, subsequent_indent="  ", break_long_words=False) if text else ""


@contextlib.contextmanager
def kept(config: ConfigDict, workdir: Path) -> Iterator[None]:
    """Keep the settings in a work directory, for people to look up: at once where there are none, and in the place of
    others when the block has ended well, since what is there may refuse them. Paths stay in: the folder holds records.
    """
    path, value = Layout(workdir).config, plain(config)

    def keep() -> None:
        artifacts.write_json(path, value)
        storage.store(path)

    artifacts.work_directory(workdir)
    storage.fetch(path)
    if not path.is_file():
        keep()
    yield
    if not path.is_file() or artifacts.read_json(path, "delete it") != value:
        keep()


def check_fields(names: Collection[str], said: str) -> None:
    """See that dotted names are those of fields in configs/base.py.

    Args: said, the name of a field as an error is to give it, such as "--config.{}".
    Raises: UserError for the first one that is not, with those that are nearest to it.
    """
    known = flat(base.get_config())
    for name in names:
        if name in known:
            continue
        if members := [field for field in known if field.startswith(f"{name}.")]:
            fields = ", ".join(said.format(field) for field in members[:4])
            raise UserError(f"{said.format(name)} is a group of fields: set one of them, such as {fields}")
        meant = ", or ".join(said.format(field) for field in nearest(name, known))
        remedy = f"did you mean {meant}?" if meant else "--print_config lists all fields"
        raise UserError(f"{said.format(name)} is no field of {BASE}: {remedy}")


def nearest(name: str, known: Collection[str]) -> list[str]:
    """Those of dotted names that one may have meant by another: like it as a whole, else in what stands last."""
    if whole := difflib.get_close_matches(name, known, 1, 0.75):
        return whole
    word, last = name.rpartition(".")[2], {field: field.rpartition(".")[2] for field in known}
    alike = [word] if word in last.values() else difflib.get_close_matches(word, sorted(set(last.values())), 2, 0.75)
    return [field for word in alike for field in known if last[field] == word][:3]
