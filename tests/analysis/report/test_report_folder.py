"""The folder of a report: two analyses at once, a kill at any moment, and the user's own files in it."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from ehr_scaling.analysis.report import folder
from ehr_scaling.errors import UserError


def write(out, text, figures=("isoflop.png",), listed=True):
    with folder.writing(out) as partial:
        (partial / "figures").mkdir()
        for name in figures:
            (partial / "figures" / name).write_text(text)
        (partial / "report.html").write_text(text)
        names = [*folder.files(partial), folder.MARK]
        (partial / folder.MARK).write_text(json.dumps({"files": names, "text": text} if listed else {"text": text}))


def texts(out):
    return {name: (out / name).read_text() for name in folder.files(out) if name != folder.MARK}


def test_only_what_the_analysis_wrote_is_replaced(tmp_path):
    out = tmp_path / "report"
    write(out, "one", ("isoflop.png", "rates.png"))
    (out / "notes").mkdir()
    for name in ("notes/mine.md", "figures/mine.png", "futures.html", ".hidden"):
        (out / name).write_text("mine")
    write(out, "two")
    assert texts(out) == {
        "report.html": "two",
        "figures/isoflop.png": "two",
        "notes/mine.md": "mine",
        "figures/mine.png": "mine",
        "futures.html": "mine",
        ".hidden": "mine",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_users_file_is_not_overwritten(tmp_path):
    out = tmp_path / "report"
    write(out, "one")
    (out / "figures" / "rates.png").write_text("mine")
    with pytest.raises(UserError, match=r"figures/rates\.png is not of the analysis.*rename"):
        write(out, "two", ("rates.png",))
    assert texts(out) == {"report.html": "one", "figures/isoflop.png": "one", "figures/rates.png": "mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("mark", ["{}", "[", "[1]", '{"files": 3}', "[" * 100_000])
def test_a_report_without_a_list_loses_nothing_but_the_names_of_the_new_one(tmp_path, mark):
    out = tmp_path / "report"
    write(out, "one", ("isoflop.png", "mine.png"), listed=False)
    (out / folder.MARK).write_text(mark)
    write(out, "two")
    assert texts(out) == {"report.html": "two", "figures/isoflop.png": "two", "figures/mine.png": "one"}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "report").symlink_to("there")
    write(tmp_path / "report", "one")
    write(tmp_path / "report", "two")
    assert (tmp_path / "report").is_symlink() and texts(tmp_path / "there")["report.html"] == "two"


@pytest.mark.parametrize("moment", ["before the new one", "after it", "amid the user's files"])
def test_a_kill_while_swapping_loses_nothing(tmp_path, moment):
    out, old = tmp_path / "report", tmp_path / ".report.old"
    write(out, "one")
    (out / "mine").write_text("mine")
    (out / "also mine").write_text("mine")
    out.rename(old)
    if moment != "before the new one":
        write(tmp_path / "new", "two")
        (tmp_path / "new").rename(out)
    if moment == "amid the user's files":
        (old / "mine").rename(out / "mine")
    with pytest.raises(KeyError), folder.writing(out):
        raise KeyError
    text = "one" if moment == "before the new one" else "two"
    assert texts(out) == {"report.html": text, "figures/isoflop.png": text, "mine": "mine", "also mine": "mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_what_a_killed_analysis_left_is_swept_and_that_of_a_running_one_is_not(tmp_path):
    out = tmp_path / "re[port"
    process = multiprocessing.get_context("fork").Process(target=hang, args=(out,))
    process.start()
    while not list(tmp_path.glob(".re*.partial/report.html")):
        time.sleep(0.01)
    write(out, "one")
    assert len(list(tmp_path.glob(".re*.partial"))) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    write(out, "two")
    assert [p.name for p in tmp_path.iterdir()] == ["re[port"]


def hang(out):
    with folder.writing(out) as partial:
        (partial / "report.html").write_text("x")
        time.sleep(600)


def test_many_at_once_each_end_well(tmp_path):
    out = tmp_path / "report"
    pool = [
        multiprocessing.get_context("fork").Process(target=many, args=(out, text)) for text in ("one", "two", "three")
    ]
    for process in pool:
        process.start()
    for process in pool:
        process.join()
    assert [process.exitcode for process in pool] == [0, 0, 0]
    assert len(set(texts(out).values())) == 1 and [p.name for p in tmp_path.iterdir()] == ["report"]


def many(out, text):
    for _ in range(20):
        write(out, text)
