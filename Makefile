# `make demo` needs only make and Python 3.11 or newer, and installs what it needs into .venv; the other targets
# install the tools of development as well. Both once. A torch that is in .venv already stays: the small build for CPUs, put there first (README.md).
PYTHON ?= python3
SEED ?= 0
DEMO := runs/demo
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := .venv/.ready
DEMO_READY := .venv/.ready-demo

.PHONY: help setup demo test test-slow check docs miniature clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(READY) ## install everything into .venv: to develop, to test

$(READY): pyproject.toml constraints.txt
	$(call install,.[dev])
	@touch $(DEMO_READY) $@

$(DEMO_READY): pyproject.toml constraints.txt
	$(call install,.[report])
	@touch $@

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once, some minutes: torch is large)"
	@$(PIP) -c constraints.txt -e '$(1)'
endef

demo: $(DEMO_READY) ## train the miniature and open its numbers; SEED=1 for another run
	@rm -rf $(DEMO)
	$(BIN)/uniapl train miniature output_dir=$(DEMO) seed=$(SEED)
	$(BIN)/uniapl report $(DEMO)

test: check ## all of `make check`, then the tests
	$(BIN)/python -m pytest

test-slow: $(READY) ## what takes minutes: three ranks, killed ranks, a real-model table, time of ranks
	$(BIN)/python -m pytest -m long

check: $(READY) ## formatter, linter, types, import contracts, stale docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	@$(BIN)/uniapl config reference | diff -u docs/config.md - || { \
		echo "error: docs/config.md is stale; run make docs" >&2; exit 1; }

docs: $(READY) ## write docs/config.md from the schema
	$(BIN)/uniapl config reference > docs/config.md

miniature: $(READY) ## rebuild the miniature: what ships, into the package; what does not, into runs/miniature
	$(BIN)/python -m uniapl.miniature.build
	for part in weaker scorer larger; do \
		$(BIN)/python -m uniapl.miniature.build --only $$part --output runs/miniature || exit; done

clean: ## remove what the other targets made, run folders excepted
	rm -rf .venv dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
