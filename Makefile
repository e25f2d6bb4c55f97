# Two commands: `make run` does the main job, `make test` passes the tests. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-plugins campaigns lint bench bench-table gpu lock clean

run: $(VENV)/.run
	$(BIN)/mmrobust run recipes/normtr.yaml

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

# Each distribution under plugins/ is installed and tested alone, as its author would.
test-plugins: $(VENV)/.dev
	set -e; for plugin in plugins/*/; do \
	  name=$$(basename $$plugin); rm -rf build/plugins/$$name; \
	  $(PIP) --no-deps --no-build-isolation --target build/plugins/$$name ./$$plugin; \
	  PYTHONPATH=build/plugins/$$name MMROBUST_PLUGINS=$$name $(BIN)/python -m pytest -n auto $$plugin; \
	done

# The long campaigns behind docs/reliability.md: each prints its figures and fails on a complaint.
# `make campaigns CAMPAIGNS=fuzz_recipes` runs one of them.
CAMPAIGNS ?= $(basename $(notdir $(wildcard tests/campaigns/*.py)))
campaigns: $(VENV)/.dev
	failed=; for campaign in $(CAMPAIGNS); do \
	  echo "== $$campaign"; $(BIN)/python tests/campaigns/$$campaign.py || failed="$$failed $$campaign"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# `make bench` measures every group, `make bench GROUP="step sweep"` these alone; each leaves build/bench/GROUP.json
# behind, and `make bench-table` makes one recorded result and the table of docs/speed.md of what is there.
# BENCH_ROUNDS=1 only tries them; BENCH_TIMER=cpu counts processor time, where the machine is shared.
GROUP ?= machine attention step sweep accel seeds startup fusion
bench: $(VENV)/.dev
	mkdir -p build/bench; failed=; for group in $(GROUP); do \
	  $(BIN)/python -m pytest benchmarks/bench_$$group.py -p no:xdist -rs -o timeout=900 \
	    -o python_files='bench_*.py' -o python_functions='bench_*' --benchmark-only \
	    --benchmark-columns=median,iqr,rounds --benchmark-sort=name \
	    --benchmark-json=build/bench/$$group.json || failed="$$failed $$group"; \
	done; test -z "$$failed" || { echo "failed:$$failed; again: make bench GROUP='$${failed# }'"; exit 1; }

bench-table: $(VENV)/.dev
	$(BIN)/python -m benchmarks.table build/bench docs/speed.md

# For a machine with a GPU and ten minutes: the tests that need one, then its benchmarks, then one recorded result and the
# table of docs/speed.md. `make gpu GPU_PYTHON=python3` uses a Python that has torch and pytest already.
GPU_PYTHON ?= $(BIN)/python
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.dev)
	$(GPU_PYTHON) -c 'import torch, sys; sys.exit(not torch.cuda.is_available() and "torch sees no GPU here")'
	MMROBUST_TEST_GPU=1 $(GPU_PYTHON) -m pytest -p no:xdist -rs tests/training/test_gpu.py tests/nn/test_attention.py
	mkdir -p build/bench; for group in machine gpu attention; do \
	  $(GPU_PYTHON) -m pytest benchmarks/bench_$$group.py -p no:xdist -rs -o timeout=300 \
	    -o python_files='bench_*.py' -o python_functions='bench_*' --benchmark-only \
	    --benchmark-json=build/bench/$$group.json || exit 1; \
	done
	$(GPU_PYTHON) -m benchmarks.table build/bench docs/speed.md

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmrobust needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements-dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@ $(VENV)/.run

# Needs uv; writes hashes, never index addresses.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra timm --group build -o requirements.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra timm --group dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache
