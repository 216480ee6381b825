# `make install` builds .venv; every other target installs first, once.
VENV := .venv
ifeq ($(OS),Windows_NT)
  # GNU make takes the sh.exe on the path, that of Git for Windows.
  BIN := $(VENV)/Scripts
else
  SHELL := /bin/bash
  BIN := $(VENV)/bin
endif
STAMP := $(VENV)/.installed
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,$(shell command -v $(name) 2>/dev/null)))

.PHONY: install demo test coverage lint format map wheel bench chaos clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "Python 3.11 or newer is needed, found: $$("$(PYTHON)" --version 2>/dev/null || echo none)." \
	    "Install one, then run: make install PYTHON=/path/to/python3.11"; exit 1; fi
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP)
	$(BIN)/unpaired demo --out demo

test: lint
	$(BIN)/python -m pytest -n auto --dist loadscope

coverage: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadscope --cov --cov-report=term:skip-covered

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

map: $(STAMP)
	$(BIN)/python docs/rooms.py > docs/architecture.md
	$(BIN)/python docs/settings.py > docs/settings.md

wheel: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist .

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -r requirements-bench.lock
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

chaos: $(STAMP)
	$(BIN)/python benchmarks/chaos.py

clean:
	rm -rf build dist htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
