# `make` lists the targets. Every target sets up what it needs; nothing is installed outside .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz lint format bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'attndsl needs Python 3.11 or later; name one: make PYTHON=python3.12'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo 'no venv module: on Debian, apt-get install python3-venv'; exit 1; }
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[torch,dev]'
	@touch $@

setup: $(STAMP) ## make .venv with everything (once)

demo: $(STAMP) ## run the main job on two examples: plan, error, speed
	$(BIN)/attndsl check examples/*.attn
	$(BIN)/attndsl run examples/alibi_window.attn --shape B=1,H=8,L=4096,D=64 --set window=256 --backward
	$(BIN)/attndsl run examples/gna.attn --grid 8x24x40 --set window=3,9,9

test: $(STAMP) ## run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

fuzz: $(STAMP) ## run the random-spec tests with 50 times as many specs
	ATTNDSL_FUZZ=50 $(BIN)/python -m pytest -n 2 tests/properties $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, ruff format, pyright strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP) ## rewrite Python and .attn files in their canonical format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/attndsl fmt examples/*.attn attndsl/std/*.attn

bench: $(STAMP) ## measure on this machine and rewrite the tables of the docs
	$(BIN)/python -m benchmarks.cpu
	$(BIN)/python -m benchmarks.tables

docs: $(STAMP) ## rewrite the generated parts of README and docs: tables and pictures
	$(BIN)/python -m benchmarks.tables
	$(BIN)/attndsl viz examples/gna.attn -o docs/img/gna.svg --grid 16x24x40 --set window=8,12,24 --set stride=2,4,8
	$(BIN)/attndsl viz examples/alibi_window.attn -o docs/img/window.svg --shape L=4096

clean: ## remove .venv and what tools left
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
