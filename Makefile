# One command from an empty machine to the paper's tables and figures: make reproduce.

# How: make reproduce PROFILE=paper STUDY=main JOBS=4 DATA_ROOT=/data
PROFILE ?= quick
STUDY ?= all
# Notebooks at once; they share the cores.
JOBS ?= 2
# Folder of the real data; none: synthetic cohorts.
DATA_ROOT ?=
# Of `make stress`: trainings killed.
KILLS ?= 100
# More options for snakemake, such as: --executor slurm
FLAGS ?=
# Makes .venv; requirements.lock is for 3.11.
PYTHON ?= python3.11

SHELL := bash
BIN := .venv/bin
READY := .venv/.ready

# The Snakefile holds a lock of its own. A line changed in it makes no result stale. The greedy scheduler goes
# by the priorities there.
OPTIONS = --snakefile notebooks/Snakefile --cores all --nolock --keep-going --rerun-incomplete \
	--rerun-triggers mtime params input --scheduler greedy $(FLAGS) \
	--config PROFILE="$(PROFILE)" STUDY="$(STUDY)" JOBS="$(JOBS)" DATA_ROOT="$(DATA_ROOT)"

# Of a dry run's many lines: each step's first output with its reason, and whatever belongs to no step.
SHORTEN = /^(local)?rule / { rule = $$2 } \
	/^    output: / { sub(",$$", "", $$2); made = $$2 } \
	/^    reason: / && rule != "all:" { print made; print "    " substr($$0, 13, 150) } \
	/^(Nothing|bipvl|[A-Za-z]*(Error|Exception))/ { wanted = 1 } wanted { print }

.PHONY: help setup reproduce plan figures report docs test stress bench lint lab lock clean

help: ## what there is to make
	@echo "make TARGET [PROFILE=quick|laptop|paper] [STUDY=all] [JOBS=2] [DATA_ROOT=]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install into .venv what requirements.lock pins (all else does so first)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || \
		{ echo "bipvl: there is no $(PYTHON); install Python 3.11, or name yours: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --requirement requirements.lock
	$(BIN)/pip install --no-build-isolation --no-deps --editable .
	touch $@

reproduce: $(READY) ## prepare, train, evaluate and draw; run again, it goes on where it stopped
	$(BIN)/snakemake --quiet rules host $(OPTIONS)

plan: $(READY) ## what reproduce would run now, why, what is missing, and what it may cost on a GPU
	@set -o pipefail; $(BIN)/snakemake --dry-run --quiet host $(OPTIONS) 2>&1 | awk '$(SHORTEN)'
	@$(BIN)/python tools/plan.py "$(PROFILE)" "$(STUDY)" "$(DATA_ROOT)"

figures: $(READY) ## draw the figures anew from the CSV files beside them
	$(BIN)/bipvl figures "figures/$(PROFILE)"

report: $(READY) ## reproduce, then a page for each executed notebook: report/PROFILE/index.html
	$(BIN)/snakemake "report/$(PROFILE)/index.html" --quiet rules host $(OPTIONS)

docs: $(READY) ## the API reference, from the docstrings: build/api/index.html
	$(BIN)/python tools/build_api.py build/api

test: $(READY) ## the tests, and that they reach nine lines of ten
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov=bipvl --cov-report= --cov-fail-under=90

stress: $(READY) ## what it withstands: trainings killed, inputs spoilt, scans turned; some 15 minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/stress.py figures --kills "$(KILLS)"

bench: $(READY) ## time and memory against the network without language, at the paper's size: an hour
	$(BIN)/python tools/bench.py figures/bench

lint: $(READY) ## style, and which package may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

lab: $(READY) ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

# Of torch the plain version: what else it needs on a machine with a GPU, it pins itself.
lock: ## requirements.lock anew: the newest releases that pyproject.toml allows, of all that it needs
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install '.[notebooks,dev]'
	{ echo "# Made by: make lock"; build/lock/bin/pip freeze --all --exclude pip --exclude bipvl \
		| sed 's/+cpu$$//' | grep -Ev '^(nvidia|cuda|triton)'; } > build/lock/new
	mv build/lock/new requirements.lock
	rm -r build/lock

clean: ## take away caches and the report; data, runs, figures, .venv and what snakemake noted stay
	rm -rf .pytest_cache .ruff_cache .hypothesis build report
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -r {} +
