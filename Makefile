# One command from a fresh clone: every target sets up .venv first, when it is missing or older than what it was made from.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# A test uses one thread; files are shared out, so that what a file builds once is built once.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

.PHONY: help venv demo docs test test-all bench bench-full lint fix

help:
	@echo "make demo      train on real images with and without self-distillation, and compare"
	@echo "make test      the tests, in minutes"
	@echo "make test-all  the slow ones too"
	@echo "make bench     every benchmark in its quick form, into build/bench"
	@echo "make bench-full  measures, for docs/performance.md: half an hour on a machine that has nothing else to do"
	@echo "make docs      the docs as a site, into build/site; a link that leads nowhere is an error"
	@echo "make lint      ruff and mypy"
	@echo "make fix       let ruff repair what it can"

venv: $(READY)

# One pip command for everything, so that it resolves torch, torchvision and timm together.
$(READY): pyproject.toml cli/pyproject.toml $(PLUGINS:%=%/pyproject.toml) constraints.txt
	@echo "Setting up .venv (PyTorch is a large download: the first time takes minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]" -e cli $(PLUGINS:%=-e %)
	@touch $@

demo: $(READY)
	$(BIN)/kd demo

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) --durations=10

test-all: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) --durations=10 -m ""

docs: $(READY)
	$(BIN)/python docs/tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python benchmarks/run.py --quick

bench-full: $(READY)
	$(BIN)/python benchmarks/run.py --into build/bench-full

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
