"""The command ehr-scaling: each of the others by its first word."""

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

# In the order of the data
COMMANDS = (
    *("check", "study", "prepare", "inspect", "sweep", "train", "evaluate", "ask", "predict", "analyze", "plan"),
    *("compare", "supervise", "audit", "export", "cards", "publish", "recipes", "leaderboard", "fetch_maps", "bench"),
)


def own_names(text: str) -> str:
    """A command's help as it can be typed here: `python -m launch.study` is `ehr-scaling study` where the package is
    installed, which has no module of the plain name `launch`."""
    if __package__ == "launch":
        return text
    return re.sub(rf"(?:python -m )?\blaunch\.(?=(?:{'|'.join(COMMANDS)})\b)", "ehr-scaling ", text)


def _about(command: str) -> str:
    """The first sentence of a command's own help, which need not be imported for it."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return own_names((ast.get_docstring(ast.parse(source)) or "").partition("\n")[0])


def help_text() -> str:
    lines = [f"  {command:<11} {_about(command)}" for command in COMMANDS]
    return "\n".join(
        ["ehr-scaling COMMAND --flag=value …", "", *lines, "", "ehr-scaling COMMAND --help has its flags."]
    )


def main() -> None:
    """What the command ehr-scaling runs: the module of its first word, as if it had been called itself."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h", "help"):
        print(help_text())
        return
    if command == "--version":
        from ehr_scaling import __version__

        print(__version__)
        return
    if (name := command.replace("-", "_")) not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]}?" if near else f"take one of {', '.join(COMMANDS)}"
        print(f"error: ehr-scaling has no command {command!r}: {meant}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
