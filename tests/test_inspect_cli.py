"""launch.inspect as a user runs it, and what it shows."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ehr_scaling import artifacts
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.packing import packing
from ehr_scaling.data.sources import synthetic
from ehr_scaling.data.timelines import timelines
from launch.inspection import tables, views
from launch.inspection.tables import Bar, Right, Share, Table, View


def launch(*flags, **more):
    return subprocess.run(
        [sys.executable, "-m", "launch.inspect", *flags], capture_output=True, text=True, check=False, **more
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("study") / "w"
    (work / "packed").mkdir(parents=True)
    inputs = {"source": "synthetic"}

    def extract(out):
        return synthetic.extract(None, out, seed=0, patients=150)

    made = {"events": artifacts.build(work / "events", inputs, extract, resume=True)["fingerprint"]}
    artifacts.build(work / "timelines", made, lambda out: timelines.build(work / "events", out), resume=True)
    options = {"context": 64, "block": 4, "seed": 0, "phases": 2}
    artifacts.build(
        work / "packed" / "t64", {}, lambda out: packing.build(work / "timelines", out, **options), resume=True
    )
    return work


@pytest.fixture(scope="module")
def real(work, tmp_path_factory):
    """The same, but nothing says that it is generated."""
    folder = tmp_path_factory.mktemp("real") / "w"
    shutil.copytree(work, folder)
    path = folder / "events" / artifacts.RECORD
    record = artifacts.read_json(path)
    del record["summary"]["generated"]
    record["summary"] |= {"name": "a hospital", "dropped": {"hosp/labevents: no time": 4_321}}
    artifacts.write_sealed(path, record)
    return folder


def one_line(done, status=1):
    assert done.returncode == status and done.stdout == "", done.stderr
    assert re.fullmatch(r"error: .*\n", done.stderr)
    return done.stderr


def test_terminal(work):
    done = launch(f"--workdir={work}", "--top=7", env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith("Generated patients")
    assert max(map(len, lines)) <= 100 and not any(line != line.rstrip() for line in lines)
    facts = inspection.gather(work, "train")
    assert f"{len(facts.lengths):,} patients, {facts.counts.sum():,} tokens" in done.stdout
    for title in ("Where the data come from", "Vocabulary by family", "Token mix", "Timeline lengths"):
        assert title in lines
    start = lines.index("Most frequent tokens")
    listed = [line.split()[0] for line in lines[start + 4 : start + 11]]
    assert listed == [facts.vocabulary.tokens[i] for i in inspection.frequent(facts, 7)]
    packed = [line.split() for line in lines if re.match(r"  (t64 +0|      +1) ", line)]
    fill = json.loads((work / "packed/t64/packed.json").read_text())["splits"]["train"]["phases"][0]["fill"]
    assert len(packed) == 2 and f"{100 * fill:.1f}" in packed[0]


def test_one_family(work):
    done = launch(f"--workdir={work}", "--family=LAB", "--split=test")
    assert done.returncode == 0, done.stderr
    assert "Token mix" not in done.stdout
    assert {line.split()[0].split("//")[0] for line in done.stdout.splitlines() if "//" in line} == {"LAB"}


class Page(html.parser.HTMLParser):
    """Fails where tags do not pair; keeps what would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link"):
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith(("#", "data:"))]
        assert tag != "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("flags", [(), ("--patient=3",)])
def test_page(work, tmp_path, flags):
    out = tmp_path / "page.html"
    done = launch(f"--workdir={work}", f"--html={out}", *flags)
    assert done.returncode == 0 and done.stdout == f"page: {out}\n", done.stderr
    page = Page(out.read_text(encoding="utf-8"))
    assert page.fetched == [] and "enerated patient" in "".join(page.words)
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_generated_patient_is_shown_without_asking(work):
    done = launch(f"--workdir={work}", "--patient=0", "--split=validation")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    record = next(timelines.read(work, "validation"))
    assert f"{len(record['tokens']):,} tokens" in done.stdout and "TIMELINE_END" in done.stdout
    assert "0 d 00:00" in done.stdout and str(record["subject_id"]) not in done.stdout


def test_a_real_patient_is_shown_to_those_who_say_that_they_may(real, tmp_path):
    assert "--i_may_see_patients" in one_line(launch(f"--workdir={real}", "--patient=0"))
    out = tmp_path / "page.html"
    one_line(launch(f"--workdir={real}", "--patient=0", f"--html={out}"))
    assert not out.exists()
    done = launch(f"--workdir={real}", "--patient=0", "--i_may_see_patients")
    assert done.returncode == 0 and done.stderr == f"warning: {views.WARNING}\n"
    assert done.stdout.splitlines()[1].startswith("One real person's record")
    assert not re.search(r"\b(19|20|21|22)\d\d-\d\d", done.stdout)


def test_mistakes_are_one_line(work, tmp_path):
    assert "--workdir=" in one_line(launch(f"--workdir={tmp_path / 'no'}"))
    assert "--html=" in one_line(launch(f"--workdir={work}", f"--html={tmp_path / 'no' / 'page.html'}"))
    assert "--split" in one_line(launch(f"--workdir={work}", "--split=all"), 2)


def test_a_reader_who_has_seen_enough_ends_it_quietly(work):
    command = f"{sys.executable} -m launch.inspect --workdir={work} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "Timelines\n" and done.stderr == ""


def test_few_real_patients_are_not_counted(real):
    """No number of patients from 1 to 9 is on any table, nor can it be read off a share or a bar."""
    facts = inspection.gather(real, "train")
    view = views.split(facts, 1000)
    hidden = 0
    for table in view.tables:
        if "patients" in table.header and table.name != "splits":
            at = list(table.header).index("patients")
            for row in table.rows:
                assert row[at] == "< 10" or row[at] == 0 or row[at] >= 10, (table.title, row)
                if row[at] == "< 10" and table.name != "tokens":
                    assert row[at + 1] is None and row[at + 2] == Bar(0)
                    hidden += 1
    assert hidden > 3
    assert ("hosp/labevents: no time", 4_320) in next(t for t in view.tables if t.title == inspection.LEFT_OUT).rows


def test_text_tables(monkeypatch):
    rows = [
        ("a\x1b[31m", 1_234_567, Share(0.25), Bar(1), None),
        ("b" * 100, 5, Share(1e-5), Bar(0.5), Right("12 d")),
        ("", 0, Share(0), Bar(0), Right("x")),
    ]
    monkeypatch.setenv("COLUMNS", "90")
    text = tables.terminal(View("title", "rests", "about", [Table("n", "Title", ("w", "n", "s", "", "r"), rows)]))
    lines = text.splitlines()
    assert "\x1b" not in text and "a�[31m" in text
    assert max(map(len, lines)) <= 90 and "b…" in text and "b" * 20 in text
    shown = lines[-3:]
    assert "1,234,567   25.0 %  " + "█" * 24 in shown[0] and shown[0].endswith("     –")
    assert "5  < 0.1 %  " + "█" * 12 + " " in shown[1] and shown[1].endswith("  12 d")
    assert shown[2].split() == ["0", "0", "%", "x"]
    assert len({line.index("%") for line in shown}) == 1
    page = tables.page(View("<b>", "rests", "about", [Table("n", "T", ("w",), [("<script>",)])]))
    assert "<script>" not in page and "&lt;script&gt;" in page
    Page(page)


@pytest.mark.parametrize(
    ("k", "words"), [(1, "≤ 0.5"), (2, "0.5 to 36.24"), (3, "36.24 to 14,010"), (4, "> 14,010"), (5, ""), (0, "")]
)
def test_values_of_a_bin(k, words):
    assert views.value_range((0.5, float(np.float32(36.2415)), 14_012.0), k) == words


def test_times():
    assert views.since(0) == "0 d 00:00"
    assert views.since((1234 * 1440 + 61) * 60_000_000) == "1,234 d 01:01"
    assert [views.duration(s) for s in (59, 90, 5400, 129_600)] == ["59 s", "1.5 min", "1.5 h", "1.5 d"]


def test_help_teaches():
    done = launch("--help")
    assert "--patient=0" in done.stdout and "--i_may_see_patients" in done.stdout
