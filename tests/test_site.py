"""The site of `make docs`: its menu names every page, links lead somewhere, and it builds without a warning."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
TOPS = ("*.md", "docs/**/*.md", "studies/**/*.md", "meds_dev/**/*.md")
# What the Makefile copies, by which a link on the site leads somewhere or nowhere
COPIED = {
    path
    for line in re.findall(r"^\tcp -R (.*) build/pages$", (ROOT / "Makefile").read_text(), re.M)
    for name in line.split()
    for path in ROOT.glob(name)
}
PAGES = sorted(path.relative_to(ROOT).as_posix() for top in TOPS for path in ROOT.glob(top))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")


def named(menu):
    """Pages of a menu, those of its parts too."""
    for entry in menu:
        for value in entry.values():
            yield from (value,) if isinstance(value, str) else named(value)


def test_the_menu_names_every_page_once():
    assert sorted(named(SITE["nav"])) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_and_figures_are_there(page):
    """Those to other hosts aside; a folder is a page where it holds one."""
    links = {link for link in LINK.findall((ROOT / page).read_text()) if "://" not in link}
    ends = {link: ((ROOT / page).parent / link).resolve() for link in links}
    assert not [link for link, end in ends.items() if not end.exists()]
    assert not [link for link, end in ends.items() if not COPIED & {end, *end.parents}]


def test_modules_of_the_python_pages_are_there():
    texts = [(ROOT / page).read_text() for page in PAGES if page.startswith("docs/api/")]
    modules = [name for text in texts for name in re.findall(r"^::: ([\w.]+)", text, re.M)]
    assert len(modules) > 8 and "ehr_scaling.api" in modules
    for name in modules:
        parts = name.split(".")
        found = [n for n in range(len(parts), 1, -1) if (ROOT / "/".join(parts[:n])).with_suffix(".py").is_file()]
        assert found or (ROOT / "/".join(parts) / "__init__.py").is_file(), name


def test_the_folder_of_the_site_is_not_committed():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert f"/{SITE['site_dir']}/" in ignored and f"{SITE['docs_dir'].split('/')[0]}/" in ignored


@pytest.mark.nightly
def test_it_builds_without_a_warning(tmp_path):
    """As the Makefile builds it, elsewhere."""
    if not (importlib.util.find_spec("zensical") and importlib.util.find_spec("mkdocstrings_handlers")):
        pytest.skip("zensical is not installed: pip install -e '.[docs]'")
    for name in ("mkdocs.yml", "Makefile", "LICENSE", *(page for page in PAGES if "/" not in page)):
        shutil.copy(ROOT / name, tmp_path)
    for folder in (path.name for path in COPIED if path.is_dir()):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "ehr_scaling").symlink_to(ROOT / "ehr_scaling")
    make = ["make", "docs", "-o", ".venv/.docs", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        place = tmp_path / "site" / re.sub(r"(README|\.md)$", "", page.removesuffix(".md"))
        assert (place / "index.html").is_file(), page
