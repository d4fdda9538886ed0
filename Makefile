# Every target is a few plain commands; the README shows them for those without make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
REPRODUCE = $(BIN)/python -m tools.reproduce --seed $(SEED)
PRESET ?= laptop
DATA_DIR ?= data
RUN_DIR ?= runs/default
ROUNDS ?= 1
SEED ?= 0
DRIVERS ?= scripted
FIRST_TRACK ?= 85000000
SITE_DIR ?= site
# One word of a shell command, whatever characters a path has. Only VENV cannot have spaces: it is
# part of target names.
quoted = '$(subst ','\'',$(1))'
FOLDERS = --data-dir $(call quoted,$(DATA_DIR)) --run-dir $(call quoted,$(RUN_DIR))
FLAGS = --preset $(PRESET) --seed $(SEED) $(FOLDERS)
# With PYTHONSAFEPATH, Python does not look for modules in this folder.
unexport PYTHONSAFEPATH

.PHONY: help run drive reproduce iterate report dream site extras test faults lint benchmark \
	benchmark-environment compare-environment clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

# The bounds of pyproject.toml, said in one line before pip says them in a page.
CHECK_PYTHON = import sys; (3, 10) <= sys.version_info[:2] < (3, 15) or sys.exit("$(PYTHON) is \
	Python %d.%d; Python 3.10 to 3.14 is needed, as in: make PYTHON=python3.12" % sys.version_info[:2])

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@$(PYTHON) fast_car_racing/installation.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/installed-test: requirements/test.txt requirements/dask.txt requirements/hub.txt \
		$(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements/test.txt
	touch $@

$(VENV)/installed-lint: requirements/lint.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements/lint.txt
	touch $@

# atheris guides the fuzzing. It has no wheels for some machines; the other cases run without it.
$(VENV)/installed-faults: requirements/faults.txt $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --requirement requirements/faults.txt || true
	touch $@

# Rerun either to resume. The small recipe has the smallest sizes and three short rounds.
run: $(VENV)/installed  ## the small recipe, from nothing to 8 test tracks: 13 to 24 minutes of 2 CPU cores
	$(REPRODUCE) --preset quick --data-dir data/quick --run-dir runs/quick

reproduce: $(VENV)/installed  ## the whole recipe to 100 test tracks: 2 hours; DRIVERS=own, SEED=1
	$(REPRODUCE) --preset $(PRESET) --drivers $(DRIVERS) \
		--data-dir data/$(DRIVERS)-$(SEED) --run-dir runs/$(DRIVERS)-$(SEED)

iterate: $(VENV)/installed  ## Sim2Real2Sim: until ROUNDS rounds are done with the agent of RUN_DIR
	$(BIN)/python -m tools.iterate $(FLAGS) --rounds $(ROUNDS)

report: $(VENV)/installed  ## one self-contained HTML page about the run in RUN_DIR
	$(BIN)/python -m tools.report $(FOLDERS)

extras: $(VENV)/installed-test  ## install the optional packages: Minari, Stable-Baselines3, ...
	$(BIN)/python -m pip install --quiet --requirement requirements/extras.txt

# The newest agent of runs/; if there is none, the shipped one.
DREAM_RUN ?= $(shell newest=$$(ls -t runs/*/controller.eqx 2>/dev/null | head -n 1); \
	dirname "$${newest:-pretrained/controller.eqx}")
DREAM_DIR ?= runs/dream

dream: $(VENV)/installed  ## the newest agent's dream as a web page, opened in the browser
	$(BIN)/python -m tools.export_web --run-dir $(call quoted,$(DREAM_RUN)) \
		--output-dir $(call quoted,$(DREAM_DIR)) --open

site: $(VENV)/installed  ## the shipped agent's dream as a static folder, SITE_DIR, for any web host
	$(BIN)/python -m tools.export_web --run-dir pretrained --output-dir $(call quoted,$(SITE_DIR))

drive: $(VENV)/installed  ## the shipped agent on 4 real tracks: score and video in runs/drive
	$(BIN)/python test_agent.py --run-dir pretrained --first-track $(FIRST_TRACK) \
		--episodes 4 --output-dir runs/drive
	@echo "The video is runs/drive/track_$(FIRST_TRACK).mp4"

test: $(VENV)/installed-test  ## the tests; what is skipped is listed with its reason
	$(BIN)/python -m pytest --quiet -rs --numprocesses 2 --dist loadfile

faults: $(VENV)/installed-faults  ## every fault against every script: 40 minutes of 2 CPU cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests/faults --quiet --numprocesses 2 \
		--dist worksteal --fault-report docs

lint: $(VENV)/installed-lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The rows of PyTorch and EnvPool are omitted on machines that these have no wheels for.
$(VENV)/installed-benchmarks: requirements/benchmarks.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements/benchmarks.txt || true
	touch $@

BENCHMARK ?=

benchmark: $(VENV)/installed-benchmarks  ## every stage beside its floor; BENCHMARK=--one-core if busy
	$(BIN)/python -m benchmarks $(BENCHMARK)

benchmark-environment: $(VENV)/installed  ## steps per second: Gymnasium's drawing, EnvPool, ours
	$(BIN)/python -m benchmarks.environment

compare-environment: $(VENV)/installed  ## every frame of 40 tracks against Gymnasium's
	$(BIN)/python -m fast_car_racing.compare

clean:  ## remove the virtual environment, never data or runs
	rm -rf $(call quoted,$(VENV))
