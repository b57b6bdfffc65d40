# make study | make study DATA=challenge-2012 | make test     (see README.md)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= synthetic
ARGS ?=
PYTHONS ?= 3.11 3.12 3.13

.PHONY: setup study check test nightly test-extras lint bench mutants docs check-versions clean
setup: $(VENV)/.installed  # for developers; a study needs less

$(VENV)/.installed: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "ehr_scaling needs Python 3.11 to 3.13, found %s: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

study: $(VENV)/.base
	$(BIN)/python -m launch.study --data=$(DATA) $(ARGS)

check: $(VENV)/.base
	$(BIN)/python -m launch.check

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

nightly: lint  # and what shows the same in other forms or for longer: five times as long or more
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "nightly or not nightly"

# Tests that compare with the packages of others, or are read by them; make test skips what is not installed
test-extras: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,cards-test,export-test,wandb]'
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/test_export.py tests/cards tests/training/test_tracking.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m launch.bench data $(ARGS)
	$(BIN)/python -m launch.bench training $(ARGS)
	$(BIN)/python -m launch.bench outcomes $(ARGS)
	$(BIN)/python -m launch.bench analysis $(ARGS)

mutants: setup  # slips put into the analysis one by one: would its tests notice? (not in CI: half an hour)
	$(BIN)/python tests/mutants.py $(ARGS)

check-versions:  # before a release: the wheel on each Python, with the lowest and the newest versions allowed
	$(PYTHON) tests/installs.py $(PYTHONS)

# The site of all pages, in site/: links between them are those of the repository, so that they lie as they do there
docs: $(VENV)/.docs
	rm -rf build/pages
	mkdir -p build/pages
	cp -R *.md LICENSE docs notebooks studies meds_dev build/pages
	$(BIN)/zensical build --strict --clean

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info
