# One command from an empty machine to the paper's tables and figures: make reproduce.

# Example: make reproduce PROFILE=paper STUDY=main JOBS=4 DATA_ROOT=/data
PROFILE ?= quick
# The name of its folders: PROFILE may be the path of your own YAML file.
NAME = $(basename $(notdir $(PROFILE)))
STUDY ?= all
# Number of notebooks at the same time; they share the cores.
JOBS ?= 2
# Folder of the real data; empty: synthetic cohorts.
DATA_ROOT ?=
# For `make figures`: png or pdf.
FORMAT ?= png
# For `make plan`: 1 lists every step and explains the estimate, 0 fits on one screen.
VERBOSE ?= 0
# For `make stress`: number of kills of trainings.
KILLS ?= 100
# Additional options for snakemake, for example: --executor slurm
FLAGS ?=
# Creates .venv; requirements.lock is for Python 3.11.
PYTHON ?= python3.11

SHELL := bash
BIN := .venv/bin
READY := .venv/.ready

# --nolock: the Snakefile has its own lock. --rerun-triggers: a change of the Snakefile makes no result stale.
# --scheduler greedy: it follows the priorities in the Snakefile.
OPTIONS = --snakefile notebooks/Snakefile --cores all --nolock --keep-going --rerun-incomplete \
	--rerun-triggers mtime params input --scheduler greedy $(FLAGS) \
	--config $(SCALE) DATA_ROOT="$(DATA_ROOT)"

# Refuses wrong values of variables before anything runs.
CHECK = @$(BIN)/python -m tools.make_variables
SCALE = PROFILE="$(PROFILE)" STUDY="$(STUDY)" JOBS="$(JOBS)"

# worksteal: two processes, each with mostly whole files, so that the tests of a file share its fixtures.
PYTEST = $(BIN)/pytest -n 2 --dist worksteal --cov=bipvl --cov-report= --cov-fail-under=90

.PHONY: help setup reproduce plan tune figures report docs test test-all stress bench lint lab lock clean

help: ## list all targets
	@echo "make TARGET [PROFILE=quick|laptop|paper] [STUDY=all] [JOBS=2] [DATA_ROOT=]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install the packages in requirements.lock into .venv (other targets do this first)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || \
		{ echo "bipvl: there is no $(PYTHON); install Python 3.11, or give the path of yours: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --requirement requirements.lock
	$(BIN)/pip install --no-build-isolation --no-deps --editable .
	touch $@

reproduce: $(READY) ## prepare, train, evaluate and draw; run it again to resume
	$(CHECK) $(SCALE)
	$(BIN)/snakemake --quiet rules host $(OPTIONS)

plan: $(READY) ## show what is missing, the runs, their cost on a GPU and the first steps (VERBOSE=1: all)
	@$(BIN)/python -m tools.plan $(SCALE) DATA_ROOT="$(DATA_ROOT)" VERBOSE="$(VERBOSE)" -- $(OPTIONS)

tune: $(READY) ## choose every network's learning rate at a profile, which `reproduce` then uses (hours)
	$(CHECK) $(SCALE)
	$(BIN)/python -m tools.tune $(SCALE) DATA_ROOT="$(DATA_ROOT)"

figures: $(READY) ## redraw the figures from the tables beside them (FORMAT=png or pdf)
	$(CHECK) PROFILE="$(PROFILE)" FORMAT="$(FORMAT)"
	$(BIN)/bipvl figures "figures/$(NAME)" --format "$(FORMAT)"

report: $(READY) ## reproduce, then write an HTML page per notebook: report/PROFILE/index.html
	$(CHECK) $(SCALE)
	$(BIN)/snakemake "report/$(NAME)/index.html" --quiet rules host $(OPTIONS)

docs: $(READY) ## build the API reference: build/api/index.html
	$(BIN)/python tools/build_api.py build/api

test: $(READY) ## run the fast tests (minutes); they must cover at least 90 %
	$(PYTEST) -m "not slow"

test-all: $(READY) ## run all tests: also kills, notebooks, workflow, wheels, several processes
	$(PYTEST)

stress: $(READY) ## stress tests: killed trainings, corrupt inputs, reoriented scans (about 15 minutes)
	$(CHECK) KILLS="$(KILLS)"
	OMP_NUM_THREADS=1 $(BIN)/python tests/stress.py figures --kills "$(KILLS)"

bench: $(READY) ## compare time and memory with a network without language (about an hour)
	$(BIN)/python tools/bench.py figures/bench

lint: $(READY) ## check style and the import rules between packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

# Without torch's "+cpu" suffix and GPU packages: torch pins the packages that it needs on a GPU machine itself.
lock: ## update requirements.lock to the newest releases that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install '.[notebooks,dev]'
	{ echo "# Made by: make lock"; build/lock/bin/pip freeze --all --exclude pip --exclude bipvl \
		| sed 's/+cpu$$//' | grep -Ev '^(nvidia|cuda|triton)'; } > build/lock/new
	mv build/lock/new requirements.lock
	rm -r build/lock

clean: ## delete caches and the report; keep data, runs, figures, .venv and snakemake's state
	rm -rf .pytest_cache .ruff_cache .import_linter_cache .hypothesis build report
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -r {} +
