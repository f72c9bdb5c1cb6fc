PY := .venv/bin/python
UV_VERSION := 0.13.9
LAB ?= demo_lab
VENV := VIRTUAL_ENV="$(CURDIR)/.venv" PATH="$(CURDIR)/.venv/bin:$$PATH"
export OPENBLAS_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check dev bench lock test-browser test-faults

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready ## the environment in .venv, from the hashed lock

.venv/.ready: requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pricelab needs python 3.11 or newer; found $$(python3 --version). Put a newer python3 on the PATH." >&2; exit 2; }
	@test -x $(PY) || python3 -m venv .venv || \
		{ echo "python3 cannot make a virtual environment here. On Debian: apt-get install python3-venv" >&2; exit 2; }
	$(PY) -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	.venv/bin/uv pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements.lock
	.venv/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the main job on real grocery sales: effects beside the planted truth
	.venv/bin/pricelab demo

test: setup ## all tests that need no system package
	.venv/bin/pytest -q -n 2 -m "not browser and not study and not daemon"

check: setup ## what CI checks besides tests: lint, format, types, definitions
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(VENV) dg check defs

test-browser: setup ## the tests that need Debian's chromium
	@command -v chromium >/dev/null || { echo "test-browser needs chromium. On Debian: apt-get install chromium" >&2; exit 2; }
	.venv/bin/pytest -q -m browser tests/browser

test-faults: setup ## a real daemon, killed in the middle of a run; some minutes
	.venv/bin/pytest -q -m daemon tests/faults

dev: setup ## the Dagster web UI on demo_lab, or on LAB=dir
	@home=$$($(PY) -m pricelab_dagster.instance "$(LAB)") && $(VENV) DAGSTER_HOME="$$home" PRICELAB_HOME="$(abspath $(LAB))" dg dev

bench: setup ## speed against one grouped sum
	.venv/bin/python -m benchmarks

lock: ## compile requirements.lock anew from pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --no-emit-index-url --no-strip-extras --generate-hashes --no-header \
		--extra demo --extra dev -o requirements.lock pyproject.toml
