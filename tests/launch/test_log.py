"""What a command prints is kept in its work directory, and printed as before."""

import logging
import re
import shlex
import sys
from pathlib import Path

import pytest

import launch
from launch.common import log
from launch.console import COMMANDS
from tests import forked

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[\d+\] ")
KEEPS = re.compile(r"^ +(log\.keep|common\.begin)\(", re.MULTILINE)


@pytest.fixture
def kept(tmp_path, monkeypatch, capsys):
    """Keeps a log in a folder when it is called; gives what gives its lines, without their times and the command."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    before = list(logging.getLogger().handlers)

    def lines():
        text = (tmp_path / "log.txt").read_text().splitlines()
        assert all(STAMP.match(line) for line in text)
        first, *others = (STAMP.sub("", line, count=1) for line in text)
        assert first.startswith("$ ")
        return others

    def keep():  # in the test itself, before which pytest puts streams of its own into place
        log.keep(tmp_path)
        return lines

    yield keep
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)
        handler.close()


def test_lines_of_both_streams(kept, capsys):
    lines = kept()
    print("a line\n\nand another")
    print("of a mistake", file=sys.stderr)
    print("begun", end=" ")
    print("and ended")
    logging.getLogger("a library").warning("it warns")
    assert lines() == ["a line", "and another", "of a mistake", "begun and ended", "it warns"]
    printed = capsys.readouterr()
    assert printed.out == "a line\n\nand another\nbegun and ended\n" and "of a mistake\n" in printed.err
    assert not sys.stdout.isatty()  # all else is the stream's own


def test_a_bar_leaves_its_last_word_alone(kept):
    lines = kept()
    for percent in range(101):
        sys.stderr.write(f"\rtraining {percent}%")
    assert lines() == []
    sys.stderr.write("\n")
    assert lines() == ["training 100%"]


def test_it_is_for_its_owner_and_bounded(kept, tmp_path, monkeypatch):
    kept()
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, log._File)]
    monkeypatch.setattr(files[-1], "maxBytes", 2_000)
    for k in range(1_000):
        print(f"line {k} of many")
    names = ["log.txt", *(f"log.txt.{k}" for k in range(1, log.OLDER + 1))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(path.stat().st_size <= 2_000 and not path.stat().st_mode & 0o077 for path in tmp_path.iterdir())
    assert (tmp_path / "log.txt").read_text().endswith("line 999 of many\n")


def test_a_log_that_cannot_be_written_stops_nothing(kept, monkeypatch, capsys):
    def full(record):
        raise OSError(28, "No space left on device")

    kept()
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, log._File)]
    monkeypatch.setattr(files[-1], "format", full)
    for _ in range(3):
        print("the work goes on")
    printed = capsys.readouterr()
    assert printed.out == "the work goes on\n" * 3
    assert printed.err.count("warning: no log is kept") == 1 and "No space left" in printed.err


def test_every_command_on_a_work_directory_keeps_one():
    """But for one that may show a patient."""
    on_one = re.compile(r'"workdir"|define_config_flags\(\)')
    commands = {
        path.stem: path.read_text() for path in Path(launch.__file__).parent.glob("*.py") if path.stem in COMMANDS
    }
    silent = {name for name, text in commands.items() if on_one.search(text) and not KEEPS.search(text)}
    assert len(commands) == len(COMMANDS) and silent == {"inspect"}


def test_a_command_on_a_study_leaves_its_line_and_its_mistake(tmp_path):
    command = [sys.executable, "-m", "launch.publish", f"--workdir={tmp_path}", "--claims=none", f"--out={tmp_path}/o"]
    done = forked.run(command, capture_output=True, text=True, check=False)
    lines = [STAMP.sub("", line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines == [shlex.join(["$", *command[2:]]).replace("'$'", "$"), done.stderr.strip()] and done.returncode == 1


def test_no_folder_no_log(tmp_path):
    log.keep(tmp_path / "none")
    assert not list(tmp_path.iterdir()) and not isinstance(sys.stdout, log._Both)
