# `make demo` and `make test` need make, Python 3.11 and the network, once; everything lands in .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
FLOOR := $(VENV)/floor
ST5 := $(VENV)/sentence-transformers-5
WORKERS := 3
PYTEST := -m pytest --numprocesses $(WORKERS) --dist worksteal
PIP_FLAGS := --quiet --disable-pip-version-check
TYPED := build/typed

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint types floor docs build clean

help:
	@echo "make demo       a guided tour: encode, compare, search, train"
	@echo "make test       every test"
	@echo
	@echo "make test-fast  the tests that take a moment"
	@echo "make lint       ruff: rules and format"
	@echo "make types      mypy, strict, on an installed copy"
	@echo "make floor      the fast tests with the lowest versions that pyproject.toml allows"
	@echo "make docs       guides and API reference as HTML, in build/docs; warnings are errors"
	@echo "make build      wheel and sdist, in dist"
	@echo "make clean      removes the environment and everything built"

demo: $(VENV)/ready
	$(BIN)/simpair demo

# Each worker computes with one thread; tests of threads set their own number.
test test-fast floor: export OMP_NUM_THREADS := 1

test: $(VENV)/ready $(ST5)/ready
	SIMPAIR_ST5="$(CURDIR)/$(ST5)" $(BIN)/python $(PYTEST)

test-fast: $(VENV)/ready
	$(BIN)/python $(PYTEST) -m "not slow"

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Static tools cannot see that simpair.training lies in training, so they read an installed copy; build is emptied
# because setuptools would put modules deleted since the last build into the copy.
types: $(VENV)/ready
	rm -rf build *.egg-info
	$(BIN)/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --target $(TYPED) .
	cd $(TYPED) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" -p simpair

floor: $(FLOOR)/ready
	$(FLOOR)/bin/python $(PYTEST) -m "not slow"

docs: $(VENV)/docs
	rm -rf build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs

build: $(VENV)/ready
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find simpair training tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt setuptools
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	touch $@

$(VENV)/docs: $(VENV)/ready
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --no-build-isolation --editable ".[docs]"
	touch $@

$(FLOOR)/ready: pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install $(PIP_FLAGS) --constraint constraints-floor.txt setuptools
	$(FLOOR)/bin/python -m pip install $(PIP_FLAGS) --constraint constraints-floor.txt --no-build-isolation --editable ".[test]"
	touch $@

$(ST5)/ready: $(VENV)/ready
	rm -rf $(@D)
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --target $(@D) sentence-transformers==5.3.0
	touch $@
