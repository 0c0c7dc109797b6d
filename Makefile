# Everything happens in .venv, made on first use and remade when its inputs change.
# `make run` and `make test` need Python 3.11 or newer and nothing else.

VENV ?= .venv
RESULTS ?= results
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(p))))
READY := $(VENV)/.ready
# Test processes share the cores; each computes with one thread.
TEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: run test test-full bench lint format clean

run: $(READY)
	$(VENV)/bin/harness run --assigner iqdet --results $(RESULTS) --resume

test: $(READY)
	$(TEST) -m "not slow"

test-full: $(READY)
	$(TEST)

bench: $(READY)
	$(VENV)/bin/pytest tests/bench --benchmark-enable --benchmark-only

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
