# make demo   install into .venv, run the quickstart, print the leakage per round and the report's path
# make test   install and run the whole suite
# FL_SIM_LONG_TESTS=1 make test   with the tests of many minutes: the compose file's commands, a SuperNode killed
# make check  what a developer runs all day: linters, types, import rules, fast tests, known vulnerabilities
# make bench  what running it costs, as ratios beside the committed ones; two idle cores, a quarter of an hour
# make docs   the documentation as a site, in build/site
# make figures  every table and figure of README and docs, printed anew of docs/results; seconds
# make audit  known vulnerabilities in the pinned dependencies; says so and passes where there is no network

PYTHON ?= python3
BIN := .venv/bin
USED = $(or $(wildcard $(BIN)/python),$(PYTHON))
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0

# Two test processes of one thread each; tests that start processes themselves stay together (tests/conftest.py).
TWO := -n 2
test check: export OMP_NUM_THREADS = 1

.PHONY: demo test check bench docs figures audit install browser clean

demo: install
	$(BIN)/fl-sim run --config experiments/configs/quickstart.toml

test: install browser
	$(BIN)/pytest -q $(TWO)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m "not slow" $(TWO)
	$(BIN)/python .ci/audit.py

bench: install
	$(BIN)/python -m experiments.benchmarks

docs: export NO_MKDOCS_2_WARNING = 1
docs: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	$(BIN)/mkdocs build --quiet
	@echo build/site/index.html

figures: install
	$(BIN)/python -m experiments.studies.figures

audit: install
	$(BIN)/python .ci/audit.py

# Compiled once: what starts Flower or Ray starts many processes, and not everywhere may Python keep what it compiles.
install: .venv/installed

.venv/installed: requirements.txt constraints-cuda.txt pyproject.toml
	@$(USED) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { echo \
		"$(USED) is $$(command -v $(USED) >/dev/null && $(USED) --version 2>&1 || echo not there);" \
		"fl-sim needs Python 3.11 to 3.14: $(if $(wildcard $(BIN)/python),make clean; )make install PYTHON=python3.12" \
		>&2; exit 1; }
	test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --disable-pip-version-check uv; }
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# The report is tested in a real browser. Where it cannot be installed that test says so and is skipped.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
		echo "no chromium here and no way to install it: the report's browser test will be skipped"

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache
