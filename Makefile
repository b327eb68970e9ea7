# Two commands for a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.ready-test

.PHONY: demo test test-slow coverage lint setup clean
demo: $(READY)
	$(BIN)/toolkit run recipes/tiny

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(TEST_READY)
	$(BIN)/python -m pytest -q -m slow --timeout 1800

# Apart from `make test`: tracing branches costs a fifth to a half of the time of tests in pure Python.
coverage: $(TEST_READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report term:skip-covered

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

setup: $(TEST_READY)

# What the toolkit needs to run. The pip of Python 3.11 takes 20 s longer to compare 100,000 file names with the platform.
# pip would compile 14,000 files to bytecode, 76 s of CPU time. The stages import 4,000 of them: importing them once
# compiles these, 20 s, also where PYTHONDONTWRITEBYTECODE is set, as in many containers.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip==26.3
	$(PIP) --no-compile -r requirements.lock -e .
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import importlib; from toolkit.config.registry import STAGES; \
		[importlib.import_module(stage.entry.partition(":")[0]) for stage in STAGES.values()]'
	@touch $(READY)

# What only tests, benchmarks and `toolkit evaluate --tasks` need.
$(TEST_READY): $(READY) requirements-test.lock
	$(PIP) -r requirements-test.lock
	@touch $(TEST_READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
