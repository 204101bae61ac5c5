# Every target makes .venv and installs what it needs, once.
#   make certify   certify 300 images of the embedded digits, end to end
#   make test      the default test suite        make test-slow  the long tests
#   make lint      ruff, flake8 and mypy         make docs       HTML documentation
#   make bench     speed and memory against the bare forward pass
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2

.PHONY: certify test test-slow lint docs bench clean

certify: $(VENV)/installed-experiments
	$(BIN)/python experiments/certify.py --flagfile=experiments/flags/digits.flags

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -rs -n $(WORKERS)

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -rs -n $(WORKERS) -m slow --durations=10 tests/bounds
	ROBUSTJAX_OPTIMIZE=1 $(BIN)/python -m pytest -q -rs -n $(WORKERS) -m slow \
	  --durations=20 --ignore=tests/bounds

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8 robustjax experiments benchmarks tests
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

bench: $(VENV)/installed-experiments
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache

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
