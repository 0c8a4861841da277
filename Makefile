# The two commands of a fresh machine are `make serve` and `make test`; `make check` is the one to run before a commit.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check bench chaos soak format clean

serve: $(VENV)/.serve
	$(BIN)/aiogate serve

test: $(VENV)/.test
	tests/servers.sh
	$(BIN)/python -m pytest -q

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not slow"

# Beside real gateways, about ten minutes; QUICK=1 under 90 seconds.
bench: $(VENV)/.test
	bench/servers.sh
	$(BIN)/python -m bench

# Redis harmed under load, each fault for SECONDS; then workers replaced and killed.
SECONDS ?= 30
chaos: $(VENV)/.test
	tests/servers.sh
	$(BIN)/python -m bench.chaos $(SECONDS)
	$(BIN)/python -m bench.worker_chaos

# Everything at once on one gateway for MINUTES; fails when memory, descriptors or tasks are not given back.
MINUTES ?= 10
soak: $(VENV)/.test
	MINUTES=$(MINUTES) $(BIN)/python -m bench.soak

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info

# Half an environment would look like a whole one: it goes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@ $(VENV)/.serve
