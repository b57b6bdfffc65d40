"""Fields of a card: what the artifacts answer, and what is open, with who has to say it."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from ehr_scaling.analysis.outcomes.scores import Measure
from ehr_scaling.analysis.wording import DASH, decimal, signed, span
from ehr_scaling.errors import UserError, first_line

OPEN, ANSWERED, IN_PART = "open", "answered", "in part"
BY_HAND = "answers file"
_FORM = "write a line `key: text` for each open field, as open.json names them"

# Who has to answer
OWNER = "the owner of the records"
TRAINER = "whoever trained the model"
AUTHORS = "the authors of the study"
USER = "whoever wants to use the model"
INSTITUTION = "the institution where the study was done"
PUBLISHER = "whoever passes the data on"

NAMES = {
    "auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "calibration_slope": "calibration slope",
    "calibration_in_the_large": "calibration in the large (log-odds)", "ece": "expected calibration error",
    "mae": "mean absolute error (days)", "rmse": "root mean squared error (days)", "r2": "R²",
    "spearman": "rank correlation", "top1": "top 1", "top5": "top 5", "log_loss": "log-loss (nats)",
    "macro_auroc": "macro AUROC", "alerts": "alerts per 100 stays", "sensitivity": "sensitivity", "ppv": "PPV",
}  # fmt: skip
RANKS = ("auroc", "auprc", "mae", "rmse", "r2", "spearman", "top1", "top5", "log_loss", "macro_auroc")
ACTS = ("alerts", "sensitivity", "ppv")  # of a threshold
RISKS = ("brier", "calibration_slope", "calibration_in_the_large", "ece")


class Field(NamedTuple):
    """key: its name, one of all cards, such as "model.BasicInfo/ModelName". label: for people. text: the answer, or as
    much of it as is known; where: what it was read from. left: what is open of it, who: who has to say that; both empty
    where nothing is. optional: a schema that it belongs to does without."""

    key: str
    label: str
    text: str = ""
    where: str = ""
    left: str = ""
    who: str = ""
    optional: bool = False

    @property
    def word(self) -> str:
        return (IN_PART if self.text else OPEN) if self.who else ANSWERED

    @property
    def full_text(self) -> str:
        """The answer, and what is open of it, as one text: a field is never empty."""
        question = f"OPEN: {self.left or self.label}. To be said by {self.who}." if self.who else ""
        return "\n\n".join(filter(None, (self.text, question)))


def unanswered(key: str, label: str, who: str, left: str = "", optional: bool = False) -> Field:
    return Field(key, label, "", "", left, who, optional)


def interval(name: str, measure: Measure, sign: bool = False) -> str:
    """`AUROC 0.840 (0.811 to 0.870)`."""
    text = signed if sign else decimal
    ends = span((measure.low, measure.high), lambda end: text(end, 3))
    ends = "no interval" if ends == DASH else ends
    return f"{NAMES[name]} {text(measure.value, 3)} ({ends})"


def read_answers(path: Path | None) -> dict[str, str]:
    """What people answered: a YAML file of {key of a field: text}, where all is text as it stands. None: nothing.

    Raises: UserError for a file that is no such thing.
    """
    if path is None:
        return {}
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as e:
        raise UserError(f"--answers={path} cannot be read ({e.strerror or e}): give a YAML file") from None
    except RecursionError:
        raise UserError(f"--answers={path} is nested too deeply: {_FORM}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as e:  # the last two of bytes and escapes that are no text
        raise UserError(f"--answers={path} is no YAML ({first_line(e)[:200]}): {_FORM}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"--answers={path}: {_FORM}")
    answers: dict[str, str] = {}
    for key, text in node.value:
        line = f"--answers={path}, line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(text, yaml.ScalarNode) and text.value.strip()):
            raise UserError(f"{line}: no text is there: {_FORM}")
        if key.value in answers:
            raise UserError(f"{line}: a key that was answered before: take one of the two out")
        answers[key.value] = text.value
    return answers


def answer(fields: Sequence[Field], answers: Mapping[str, str]) -> list[Field]:
    """The fields with people's answers in the place of what is open. Answers to others are not looked at."""
    return [_answered(field, answers[field.key]) if field.key in answers else field for field in fields]


def _answered(field: Field, text: str) -> Field:
    where = "; ".join(filter(None, (field.where, BY_HAND)))
    return field._replace(text="\n\n".join(filter(None, (field.text, text.strip()))), where=where, left="", who="")


def check_answers(answers: Mapping[str, str], fields: Iterable[Field]) -> None:
    """See that answers are to fields that are open: what the artifacts say is not for people to change.

    Raises: UserError for the first that is not.
    """
    known = {field.key: field for field in fields}
    for key in answers:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f"did you mean {near[0]}?" if near else "open.json lists the open ones"
            raise UserError(f"--answers: {key[:80]!r} is no field of a card: {meant}")
        if not known[key].who:
            raise UserError(f"--answers: {key} is answered by {known[key].where}: take it out of the file")
