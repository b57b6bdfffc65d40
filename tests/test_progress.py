"""What takes long gives signs of life: a line a step, a bar on a terminal, and lines where there is none."""

import io
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ehr_scaling import progress
from ehr_scaling.progress import Bar, Steps, each


def test_a_step_that_lasts_is_said_again(capsys, monkeypatch):
    monkeypatch.setattr(Steps, "GAPS", (0.2,))
    with Steps() as steps:
        time.sleep(0.5)
        assert capsys.readouterr().out == ""  # before the first step other stages have the terminal
        steps.say("fitting")
        time.sleep(0.6)
        steps.say("")
        time.sleep(0.4)  # what has a progress bar
        steps.say("drawing")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[   0 s] fitting" and lines[-1] == "[   1 s] drawing"
    assert 2 < len(lines) < 8 and all(re.fullmatch(r"\[   [01] s\] still fitting", line) for line in lines[1:-1])


def test_the_longer_a_step_lasts_the_rarer_it_is_said(capsys, monkeypatch):
    """After two seconds first; a step of an hour takes no page. The next step begins anew."""
    clock = SimpleNamespace(now=0.0)

    def wait(seconds):
        clock.now += seconds
        if 100 <= clock.now < 100 + seconds:
            steps._thread = SimpleNamespace(ident=1)
            steps.say("drawing")
        return clock.now > 104

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    steps = Steps()
    steps._step, steps._ended = "fitting", SimpleNamespace(wait=wait)
    steps._remind()
    out = capsys.readouterr().out
    said = [int(second) for second in re.findall(r"\[ *(\d+) s\] still fitting", out)]
    assert said == pytest.approx([2, 7, 17, 37, 67, 97], abs=1)
    assert out.endswith("[ 100 s] drawing\n[ 102 s] still drawing\n")


def test_an_error_ends_the_thread():
    with pytest.raises(KeyError), Steps() as steps:
        steps.say("reading")
        raise KeyError
    assert not steps._thread.is_alive()


def test_without_a_terminal_a_bar_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.2)
    with Bar("square", 8, "part", done=2) as bar:
        bar.update()
        time.sleep(0.7)  # no part ends
    assert not bar._thread.is_alive()
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(re.match(r"square:  38% 3/8 \[.*part", line) for line in lines)
    with Bar("fetch", None, "B", scaled=True) as bar:
        bar.update(5e9)
        bar.update(-2e9)  # a server begins again
        time.sleep(0.3)
    assert capsys.readouterr().err.startswith("fetch: 3.00GB [")


def test_what_is_short_says_nothing_without_a_terminal(capsys):
    assert list(each("abc", "checksums", "file")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_is_a_bar(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with Bar("square", 2, "part") as bar:
        bar.update(2)
        time.sleep(0.2)
    assert "\r" in terminal.getvalue() and "2/2" in terminal.getvalue() and bar._thread.ident is None


def test_one_module_makes_bars():
    """But for that of a sweep, which has lines of its own: tqdm alone says nothing where there is no terminal."""
    package = Path(progress.__file__).parent
    made = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "tqdm" in path.read_text()}
    assert made == {"progress.py", "grid/executors/progress.py"}
