# Everything starts from here: `make demo` and `make test` set up what they need by themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Test files that run at once, each with servers and browsers of its own.
TEST_PROCESSES ?= 2
# uv from the PATH, or one of our own.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
# Where it is set, each process of the hundreds that tests start would compile anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo serve test coverage test-seconds test-fast test-versions lint types format lock wheel clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.ready ## Set up .venv: `. .venv/bin/activate` gives the command cliptune

demo: $(VENV)/.ready ## Fine-tune on the built-in catalogue, evaluate, export, serve, search
	$(BIN)/cliptune demo

serve: $(VENV)/.ready ## The demo, and keep its search page up until Ctrl-C
	$(BIN)/cliptune demo --keep-serving

PYTEST = $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile \
	--no-loadscope-reorder --durations 30

# COVERAGE=--cov tells how much of the code they run.
test: test-tools ## All tests, those through real servers and browsers included
	$(PYTEST) $(COVERAGE)

coverage: ## All tests, and how much of the code they run
	@$(MAKE) --no-print-directory test COVERAGE=--cov

test-seconds: test-tools ## All tests, and what each file took, for the order of the next
	$(PYTEST) --write-seconds

test-fast: $(VENV)/.ready ## The fast tests alone
	$(BIN)/python -m pytest -m "not e2e"

.PHONY: test-tools
test-tools: $(VENV)/.ready
	UV=$(abspath $(UV)) PYTHON=$(PYTHON) scripts/install-test-tools

OTHER_PYTHONS := 3.12 3.13
# Versions beside one another, rather than files of one: each process has all tests to import first.
test-versions: $(UV) ## The fast tests, and a search Flow's, on Python 3.12 and 3.13
	@$(MAKE) --no-print-directory --jobs --output-sync=target $(OTHER_PYTHONS:%=test-on-%)

.PHONY: $(OTHER_PYTHONS:%=test-on-%)
$(OTHER_PYTHONS:%=test-on-%): test-on-%:
	@UV=$(abspath $(UV)) TEST_PROCESSES=$$(( ($(TEST_PROCESSES) + 1) / 2 )) scripts/test-versions $*

IMAGE_PACKAGES = $(shell sed -nE '/^(nvidia|cuda)-/d; s/^([a-z0-9][^= ]*)==.*/\1/p' docker/requirements.lock)

lint: $(VENV)/.ready ## Lint and format, the imports' directions, code that nobody uses, licenses
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --cache-dir build/imports
	$(BIN)/python scripts/unused.py
	$(BIN)/pip-licenses --summary --packages $(IMAGE_PACKAGES)

types: $(VENV)/.ready ## Type checks
	$(BIN)/mypy

.PHONY: docs
# Not --quiet, which would keep warnings from --strict too.
docs: $(VENV)/.ready ## Build the documentation's site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/.ready ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.ready ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

lock: $(UV) ## Resolve the dependencies again
	scripts/lock $(UV)

clean: ## Remove what was built (not the runs in CLIPTUNE_HOME)
	rm -rf $(VENV) .uv .peers .versions build dist .mypy_cache .ruff_cache .pytest_cache

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv

$(VENV)/.ready: requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(VENV) --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(VENV) --no-deps --editable .
	touch $@
