# make serve   set up, build the demo models, serve them
# make test    set up, run every check and test
PYTHON     ?= python3
VENV       ?= .venv
HOST       ?= 127.0.0.1
HTTP_PORT  ?= 8000
GRPC_PORT  ?= 8001
METRICS_PORT ?= 8002
HEALTH_PORT ?= 8003
DEMO       ?= demo

BIN := $(VENV)/bin
SOURCES := pyproject.toml hatch_build.py $(wildcard src/tnn_serving/triton/backend/*.[ch])

.PHONY: serve test lint types docs clean

serve: $(VENV)/.server
	$(BIN)/tnn-serving demo build $(DEMO)
	exec $(BIN)/tnn-serving serve $(DEMO) --host $(HOST) --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) \
	  --metrics-port $(METRICS_PORT) --health-port $(HEALTH_PORT)

test: $(VENV)/.test
	$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.10 to 3.13 is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.server: $(VENV)/.installed
	$(BIN)/tnn-serving install-server
	@touch $@

$(VENV)/.test: $(VENV)/.server
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
