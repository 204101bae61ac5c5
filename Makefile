# Every target makes .venv and installs what it needs, once.
#   make certify   certify 300 images of the embedded digits, end to end
#   make test      the default test suite        make test-slow  the long tests
#   make test FILE=tests/bounds                  make test-changed  what git says changed
#   make mutants   small faults that tests must find
#   make lint      ruff, flake8, mypy, codespell make docs       HTML documentation
#   make bench     speed and memory against the bare forward pass
#   make bench-device  what one accelerator gives, in at most 12 minutes
SHELL = /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2
FILE ?=
PYTEST = $(BIN)/python -m pytest -q -rs -n $(WORKERS) --dist loadfile
# Long tests that compile more than they compute.
COMPILE_BOUND = tests/bounds tests/docs_test.py tests/colabs_test.py \
  tests/benchmarks_test.py tests/bench_device_test.py
TIMED = @TIMEFORMAT='%R s of wall time, %U user + %S system CPU s'; time

.PHONY: certify test test-changed test-slow test-newest mutants lint docs bench \
  bench-device clean

certify: $(VENV)/installed-experiments
	$(BIN)/python experiments/certify.py --flagfile=experiments/flags/digits.flags

test: $(VENV)/installed-test
	$(TIMED) $(PYTEST) $(FILE)

test-changed: $(VENV)/installed-test
	@files=$$($(BIN)/python tests/changed.py) && \
	  if [ -n "$$files" ]; then $(PYTEST) $$files; else echo "no test file is concerned"; fi

test-slow: $(VENV)/installed-test
	$(TIMED) $(PYTEST) -m slow --durations=10 $(COMPILE_BOUND)
	$(TIMED) env ROBUSTJAX_OPTIMIZE=1 $(PYTEST) -m slow --durations=20 \
	  $(COMPILE_BOUND:%=--ignore=%)

test-newest: $(VENV)/installed-test
	$(TIMED) $(PYTEST) -m newest tests

mutants: $(VENV)/installed-test
	$(BIN)/python tests/mutants.py --workers=$(WORKERS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8 robustjax experiments benchmarks tests
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

bench: $(VENV)/installed-experiments
	$(BIN)/python -m benchmarks

bench-device: $(VENV)/installed-experiments
	$(BIN)/python -m benchmarks.device

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .jax_cache .mypy_cache .ruff_cache

EXTRAS_experiments = experiments,plot
EXTRAS_test = test
EXTRAS_docs = docs
EXTRAS_dev = dev

$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --config-settings editable_mode=compat -e ".[$(EXTRAS_$*)]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "robustjax needs Python >= 3.11, $(PYTHON) is older; try make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
