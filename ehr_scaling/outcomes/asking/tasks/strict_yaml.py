"""YAML files of users, read so that a slip in one is an error of one line and never a value of another kind."""

import reprlib
from pathlib import Path
from typing import Any

import yaml

from ehr_scaling.errors import UserError, first_line

_KEYS = 10_000  # of a mapping in a file, those of merges included


def read(path: Path, wanted: str) -> Any:
    """What a file says, by YAML's own types alone.

    Args: wanted, for messages: what the file should be.
    Raises: UserError where it is missing or no such file, and for a repeated key; it names the file and the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror or e}): give {wanted}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: give {wanted}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: {spelt(getattr(e, 'problem', None) or first_line(e))}") from None
    except (ValueError, OverflowError):  # of chr()
        raise UserError(f"{path}: an escape in quotes is no character: spell it otherwise") from None


def spelt(value: Any, quoted: bool = False) -> str:
    """What a file holds, for a message: in one line, and short."""
    text = value if isinstance(value, str) and not quoted else reprlib.repr(value)
    return " ".join(text.split())[:200]


class _Loader(yaml.SafeLoader):
    """SafeLoader, but a key that is repeated is an error: the first task of two with one name would be lost. So is
    whatever YAML's own types cannot hold, and a merge of so many keys that it would never end."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        # what the types of YAML raise for text like `!!int abc`, `!!bool x`, 2020-99-99
        except (ValueError, OverflowError, LookupError, TypeError, AttributeError):
            tag = str(node.tag).rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this is no {tag}", node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > 63:
            raise yaml.constructor.ConstructorError(None, None, "a number beyond 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "this is no map", node.start_mark)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is repeated", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _KEYS:
            raise yaml.constructor.ConstructorError(None, None, "a merge of too many keys", node.start_mark)
