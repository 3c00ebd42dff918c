# What one can do here. Every target sets up what it needs by itself: Python >= 3.11 with pip, and make, are enough.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types bench docs serve clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with the tested versions (wheels only)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --only-binary :all: --constraint constraints.txt --editable ".[dev,demo,examples,onnx,openvino]"
	@touch $@

demo: $(READY) ## check, fit, evaluate and query the emoji pictures; a few minutes on two cores
	$(BIN)/python examples/emoji/demo.py --out demo

test: $(READY) ## the tests, without the slow ones
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-all: $(READY) ## every test, the slow ones too
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "slow or not slow"

lint: $(READY) ## ruff: errors and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy --strict
	$(BIN)/mypy

bench: $(READY) ## what is fast and by how much; rewrites the measured part of RESULTS.md
	$(BIN)/python -m benchmarks

docs: $(READY) ## run every command and snippet of README and docs
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/docs -m "slow or not slow"

serve: $(READY) ## show the demo's report in a browser at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory demo 8000

clean: ## remove everything that the other targets made
	rm -rf .venv demo runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
