# Set-up, tests and acceptance. `make help` lists the targets.

PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
# Test processes side by side.
JOBS ?= 2
SHELL := /bin/bash
# The set-up of `make gpu` counts: nodes are lent for ten minutes at a time.
BEGUN := $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help setup accept test test-full bench tables lint lock gpu clean

CXX_FILES = find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh'

# Both passes run, the first red or not: main process, then Triton's interpreter in its own. One
# thread a process: with more of both than cores the tests of ops took half as long again.
define run_tests
	@code=0; \
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) tests --ignore=tests/interpret $(1) $(ARGS) || code=1; \
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PY) -m pytest -n $(JOBS) tests/interpret $(1) $(ARGS) || code=1; \
	exit $$code
endef

help:
	@echo 'make setup      .venv with pinned packages and the build; each target below does it too'
	@echo 'make accept     the acceptance run on this machine, report in reports/accept'
	@echo 'make test       all tests but the long ones'
	@echo 'make test-full  the long tests, which make test leaves out'
	@echo 'make bench      time against peers'
	@echo 'make tables     write the tables and pictures of kernels/*/README.md: records, errors of video'
	@echo 'make lint       ruff, clang-format, mypy, codespell'
	@echo 'make lock       write the resources of the compiled Triton kernels anew, for review'
	@echo 'make gpu OUT=d  build, validate and benchmark on this GPU node, records in folder d'
	@echo 'make clean      remove .venv, builds and caches'
	@echo
	@echo 'OFFLINE=1       the packages of the system, no network'
	@echo 'ARGS="..."      further arguments for the command behind the target'
	@echo 'JOBS=2          test processes side by side; 0: one, in the foreground'
	@echo 'PYTHON=...      the Python to start from'

# Asked first, since a PYTHON that is some other program may well exit with 0.
setup:
	@[ "$$($(PYTHON) -c 'import sys; print(sys.version_info >= (3, 9))' 2>/dev/null)" = True ] || { \
	  echo "set-up: PYTHON is '$(PYTHON)' and should be a command that runs Python 3.9 or newer." >&2; \
	  exit 1; }
	@$(PYTHON) tools/setup_env.py

# A run is never written over: the one before is set aside, unless it is to be gone on with.
accept: setup
	@case " $(ARGS) " in *" --resume "*) ;; *) [ ! -e reports/accept ] || \
	  mv reports/accept "reports/accept-$$(date -r reports/accept +%Y-%m-%dT%H%M%S)";; esac
	@.venv/bin/aimills-kernels accept --out reports/accept $(ARGS)

test: setup
	$(call run_tests,-m "not full")

test-full: setup
	$(call run_tests,-m full)

bench: setup
	@.venv/bin/aimills-kernels bench $(ARGS)

tables: setup
	@.venv/bin/aimills-kernels bench report --update kernels/*/README.md $(ARGS)
	@$(PY) -m tools.video_errors --update

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(CXX_FILES) | xargs -r .venv/bin/clang-format --dry-run -Werror
	.venv/bin/mypy
	.venv/bin/codespell .

lock: setup
	AIMILLS_UPDATE_RESOURCES=1 $(PY) -m pytest tests/test_aot.py -k within_their_resources $(ARGS)

gpu:
	@test -n "$(OUT)" || { echo 'make gpu: name the folder for the records, OUT=<folder>' >&2; exit 3; }
	@$(MAKE) --no-print-directory setup
	@spent=$$(($$(date +%s) - $(BEGUN))); \
	$(PY) -m aimills_kernels gpu --out "$(OUT)" --budget $$((spent < 420 ? 540 - spent : 120)) $(ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
