# make demo             installs into .venv and runs the main job on text found in the installation
# make test             installs the test tools as well and runs the tests on Spark 4.2
# make test SPARK=3.5   the same tests on Spark 3.5, in .venv-3.5
# make test TESTS=...   only these tests
# make test-all         with what takes long: notebooks run headless, a standalone cluster, real kills
# make check            lint, types, test-all
# make house            files, lines, longest function and class, imports
# make notebooks        runs the notebooks and stores what they show
# make docs             builds the site of docs/ into site/, with warnings as errors
# make pictures         draws the pictures of the README from a run of the demo
# make bench            benchmarks, small; fails on a ratio under a third of what is claimed,
#                       and where a run reads or starts more than it may
# make dist             builds sdist and wheel, checks them, and runs a small demo from the wheel alone
# make dist PYTHONS="python3.10 python3.13"   the same from environments of these
# make fuzz             100,000 hostile texts against the oracle, 500 broken files; a few minutes
PYTHON ?= python3
SPARK ?= 4.2
TESTS ?= tests
# A Spark session each, which keeps one core busy with planning. One that has done its tests takes
# over some of the other's: files differ too much in what they take for either to get its half.
WORKERS ?= 2
# Broken files that fuzz tries.
FILES ?= 500
# Of the environments that a wheel is tried in.
PYTHONS ?= $(PYTHON)

ifeq ($(SPARK),4.2)
VENV := .venv
EXTRA := spark
else ifeq ($(SPARK),3.5)
VENV := .venv-3.5
EXTRA := spark35
else
$(error SPARK must be one of 4.2, 3.5; got $(SPARK))
endif

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all house notebooks docs pictures bench dist fuzz lint types check \
	prerequisites clean

demo: $(VENV)/.installed
	$(BIN)/dsir-spark demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal --durations=10 $(TESTS)
	@echo "left to make test-all: notebooks run headless, a job on a standalone cluster, real kills"

test-all: test
	$(PIP) --editable '.[$(EXTRA),exports]'
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal --durations=10 $(TESTS)

house:
	@$(PYTHON) scripts/house.py

bench: $(VENV)/.installed-test
	$(BIN)/python scripts/bench.py --rounds 3 --reference-mb 1 --spark-mb 150 --rows 2000000 --check
	$(BIN)/python scripts/passes.py --check

dist: $(BIN)/python
	rm -rf dist build
	$(PIP) build twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python scripts/check_dist.py --extra $(EXTRA) dist $(PYTHONS)

fuzz: $(VENV)/.installed-test
	$(BIN)/python -W ignore scripts/fuzz.py --files $(FILES)

notebooks: $(VENV)/.installed-test
	$(BIN)/jupyter-execute --inplace --timeout=600 --kernel_name=python3 notebooks/*.ipynb

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

pictures: demo
	$(BIN)/python scripts/pictures.py dsir-demo/tables/report.json docs --target scientific_docstrings

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

types: $(VENV)/.installed-test
	$(BIN)/mypy
	$(BIN)/mypy --config-file scripts/mypy.ini scripts/*.py scripts/judging

# One after the other even under -j: the cheap ones first.
check:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory test-all

# Silent, so that what is missing is told in one line.
prerequisites:
	@sh scripts/check_prerequisites.sh "$(PYTHON)"

$(BIN)/python: | prerequisites
	"$(PYTHON)" -m venv $(VENV)

# Stamps: installing happens once, and again when the requirements change.
$(VENV)/.installed: setup.py $(BIN)/python | prerequisites
	$(PIP) --editable '.[$(EXTRA)]'
	@touch $@

$(VENV)/.installed-test: setup.py $(BIN)/python | prerequisites
	$(PIP) --editable '.[$(EXTRA),test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: setup.py $(BIN)/python | prerequisites
	$(PIP) --editable '.[$(EXTRA),docs]'
	@touch $@

clean:
	rm -rf site .venv .venv-3.5 build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
