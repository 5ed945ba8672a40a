# Every target is one command with variables that can be set: make train PRESET=student RUN=runs/s1
# No logic lives here. `make help` lists the targets.

# Started from the root, our evaluate/ and data/ must not shadow installed packages.
export PYTHONSAFEPATH := 1

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LINKS := __init__.py __main__.py check.py cli.py config.py console.py demo.py detect.py job.py steps.py study.py units.py py.typed data distill evaluate extract

VIDEOS ?= videos
STORE ?= runs/features
STREAMS ?= tsm18:rgb tsm18:tg
ANNOTATIONS ?= annotations.json
PRESET ?= student
RUN ?= runs/$(PRESET)
OUT ?= runs/demo
DETECTIONS ?= $(RUN)/detections.json
ARGS ?=

.PHONY: help setup demo extract train detect eval test lint typecheck bench dist

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(BIN)/.installed ## make the virtual environment (once; again when setup.cfg changes)

$(BIN)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## the whole pipeline on the built-in benchmark: mp4 files to a table of mAP
	$(BIN)/tad-distill demo --out $(OUT) $(ARGS)

extract: setup ## VIDEOS -> STORE
	$(BIN)/tad-distill extract $(VIDEOS) $(addprefix --stream ,$(STREAMS)) --store $(STORE) $(ARGS)

train: setup ## STORE + ANNOTATIONS -> RUN, by PRESET
	$(BIN)/tad-distill train --preset $(PRESET) --store $(STORE) --annotations $(ANNOTATIONS) --out $(RUN) $(ARGS)

detect: setup ## VIDEOS + RUN -> DETECTIONS
	$(BIN)/tad-distill detect $(VIDEOS) --model $(RUN) --out $(DETECTIONS) $(ARGS)

eval: setup ## DETECTIONS + ANNOTATIONS -> mAP
	$(BIN)/tad-distill eval $(DETECTIONS) --annotations $(ANNOTATIONS) $(ARGS)

test: setup ## the whole test suite, slow tests included (under 10 minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Static tools cannot follow an editable install's import hook: give them links.
typecheck: setup ## types, strictly
	@mkdir -p build/typing/tad_distill
	@for name in $(LINKS); do ln -sfn ../../../$$name build/typing/tad_distill/$$name; done
	$(BIN)/mypy -p tad_distill
	$(BIN)/mypy tests

bench: setup ## speed against peers and limits; prints ratios, machine and versions
	$(BIN)/python -m pytest tests/bench --override-ini python_files='bench_*.py' -s $(ARGS)

dist: setup ## wheel and sdist in dist/
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
