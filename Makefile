# make serve   set up, build the demo models, serve them
# make check   lint, types, import contracts, and the quick tests that need no server: within a minute
# make test    set up, run every check and test
# make coverage   the tests that need no server, and how much of the code they run; below the floor it fails
# make hostile   attack servers on this machine as the tests do, but with EXAMPLES of each kind, others each time
# make bench   set up, measure everything and write docs/reference/benchmarks.md; ZOO: folder of TNN's benchmark networks,
#              BEFORE: checkout of another version with its .venv, to compare loads with
# make docs    write the pages that are made from the code
# make dist    build the sdist and the wheel into dist/, and try the wheel in a fresh environment
# make hooks   have git run the quick checks of .pre-commit-config.yaml before each commit
# make constraints   pin what pyproject.toml needs in constraints.txt; UPGRADE=--upgrade takes the newest versions
PYTHON     ?= python3
VENV       ?= .venv
HOST       ?= 127.0.0.1
HTTP_PORT  ?= 8000
GRPC_PORT  ?= 8001
METRICS_PORT ?= 8002
HEALTH_PORT ?= 8003
DEMO       ?= demo
ZOO        ?=
LOADED     ?= squeezenet_v1.1,mobilenet_v2,resnet50,inception_v3,quant_squeezenet_v1.1,quant_resnet50
PEERS      ?= $(HOME)/.cache/tnn-serving-peers
UPGRADE    ?=
EXAMPLES   ?= 20000

BIN := $(VENV)/bin
BENCH := $(BIN)/python benchmarks
RESULTS := benchmarks/results
SOURCES := pyproject.toml hatch_build.py $(wildcard src/tnn_serving/triton/backend/*.[ch] src/tnn_serving/triton/backend/*.txt src/tnn_serving/triton/guard/*.c)
# The versions that the tests ran with; pyproject.toml says which others will do.
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt
PYTHONS := python3.13 python3.12 python3.11 python3.10

.PHONY: serve check test hostile coverage bench lint types docs dist constraints hooks clean

serve: $(VENV)/.server
	@test -d $(DEMO) || echo "4 of 4: the demo models: 27 MB to download"
	$(BIN)/tnn-serving demo build $(DEMO)
	exec $(BIN)/tnn-serving serve $(DEMO) --host $(HOST) --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) \
	  --metrics-port $(METRICS_PORT) --health-port $(HEALTH_PORT)

# Servers and commands that tests start are processes of their own, which import the package: its bytecode is kept.
check test hostile coverage: export PYTHONDONTWRITEBYTECODE :=

check: $(VENV)/.test
	$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore=tests/conformance -m "not server and not slow"

test: $(VENV)/.test
	$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Each kind takes minutes to an hour: damaged models and pictures, requests, calls, tokens.
hostile: $(VENV)/.test
	TNN_SERVING_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -v -n 2 --dist loadfile --timeout=0 tests/hostile tests/shield tests/faults

coverage: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not server" --cov --cov-report=term:skip-covered

# Some twenty minutes on a quiet machine; the other servers are those that `benchmarks/peers.py install` has made.
bench: $(VENV)/.bench
	$(BENCH)/served.py $(ZOO:%=--zoo %) --rounds 2 --json $(RESULTS)/served.json
	$(BENCH)/floor.py --rounds 3 --json $(RESULTS)/floor.json
	$(BENCH)/peers.py run $(ZOO:%=--zoo %) --environments $(PEERS) --rounds 4 --seconds 1 --json $(RESULTS)/peers.json
	$(BENCH)/engines.py $(ZOO:%=--zoo %) --json $(RESULTS)/engines.json
	$(BENCH)/int8_forms.py $(ZOO:%=--zoo %) --rounds 5 --threads 0 --json $(RESULTS)/int8_forms.json
	$(BENCH)/load_time.py $(ZOO:%=--zoo %) --networks $(LOADED) --json $(RESULTS)/load_time.json
	$(if $(BEFORE),$(BENCH)/loading.py $(ZOO:%=--zoo %) --before $(BEFORE) --json $(RESULTS)/loading.json)
	$(BENCH)/memory.py $(ZOO:%=--zoo %) --json $(RESULTS)/memory.json
	$(BENCH)/report.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/python -m tnn_serving.triton.backend.contract_header
	$(BIN)/python docs/generate_layers.py
	$(BIN)/python docs/generate_parameters.py
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_conversion.py

# zig links against an old glibc, so that the wheel is good for other machines than this one.
dist: $(VENV)/.dev
	rm -rf dist build/wheel
	TNN_SERVING_COMPILER=zig $(BIN)/python -m build
	$(BIN)/python -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && wheel/bin/tnn-serving --version
	rm -rf build/wheel

hooks: $(VENV)/.dev $(VENV)/.test
	$(BIN)/pre-commit install

constraints: $(VENV)/.dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra test --extra bench --extra dev $(UPGRADE) \
	  --no-annotate --custom-compile-command "make constraints" --output-file constraints.txt pyproject.toml

# The first of these that runs is proposed where $(PYTHON) will not do.
OTHERS = found=$$(for one in $(PYTHONS); do $$one -c 'import ensurepip' 2>/dev/null && echo $$one && break; done)
PROPOSED = $$(test -n "$$found" && echo "this will do: make $(MAKECMDGOALS) PYTHON=$$found" || \
	    echo "none of $(PYTHONS) runs on this machine: install one")

$(BIN)/python:
	@$(PYTHON) -c '' 2>/dev/null || \
	  { $(OTHERS); echo "$(PYTHON) does not run on this machine; $(PROPOSED)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { $(OTHERS); echo "$$($(PYTHON) --version) will not do, Python 3.10 to 3.13 is needed; $(PROPOSED)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "1 of 4: an environment in $(VENV), with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip

# pip says what it downloads, how large each package is, and how far it is.
$(VENV)/.installed: $(BIN)/python $(SOURCES) constraints.txt
	@echo "2 of 4: tnn-serving and what it needs, OpenVINO and ONNX Runtime above all: some 150 MB to download"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.server: $(VENV)/.installed
	@echo "3 of 4: tritonserver and Envoy: some 90 MB to download"
	@$(BIN)/tnn-serving install-server
	@touch $@

$(VENV)/.test: $(VENV)/.server
	$(INSTALL) --quiet --editable '.[test]'
	@touch $@

$(VENV)/.bench: $(VENV)/.server
	@command -v h2load >/dev/null || { echo "h2load makes the load; on Debian and Ubuntu: apt install nghttp2-client" >&2; exit 1; }
	$(INSTALL) --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(INSTALL) --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
