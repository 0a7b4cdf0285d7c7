# What to type: `make demo` shows a search at work, `make test` runs every check.

PYTHON ?= python3
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -q -n 2 --dist loadfile
STAMP := .venv/installed

.PHONY: setup demo test lint types contracts fast jax heavy clean
.NOTPARALLEL:  # the checks share two cores at worst, and read best one after another

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; name a Python 3.11, 3.12 or 3.13: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); Rungwise needs Python 3.11, 3.12 or 3.13: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# Each demo is a run of its own: a run's folder is never written over.
demo: setup
	$(BIN)/rungwise run spaces/catalog/digits/cnn.yaml --name demo-$$(date +%Y%m%d-%H%M%S)

test: lint types contracts fast jax heavy

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports --no-logo

# No cluster, no browser, no long training.
fast: setup
	$(PYTEST) -m "not ray and not browser and not slow"

# Tests of what each backend of Keras does in its own way, on the one that `fast` leaves out.
jax: setup
	KERAS_BACKEND=jax $(PYTEST) -m jax

heavy: setup
	$(PYTEST) -m "ray or browser or slow" --durations=10

# Runs are kept: they are results, not by-products.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
