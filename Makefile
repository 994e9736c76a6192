# `make` alone prints what there is. Every target sets up $(VENV) first, once; afterwards that costs nothing.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
TRITON ?= triton==3.9.0
PIP_ARGS ?=
DEMO_ARGS ?=
JOBS ?= auto
TEST_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
REPRODUCE_ARGS ?=
SANITIZE_ARGS ?=
WHEELS_ARGS ?=

# Where Python may write no bytecode, every process that the tests start compiles all of torch anew: half of their time.
export PYTHONDONTWRITEBYTECODE :=

# PY=... names an interpreter to use as it is: nothing is set up, nothing is installed.
ifdef PY
READY :=
TOOL :=
else
PY := $(VENV)/bin/python
TOOL := $(VENV)/bin/
# The stamp is written last, so a set-up cut short starts over; it carries the folder, so a copied tree gets its own.
READY := $(VENV)/.ready-$(shell printf '%s' "$(CURDIR)" | cksum | cut -d ' ' -f 1)
endif

CXX_FILES := $(wildcard $(foreach suffix,cpp cc cu h cuh inc,csrc/*.$(suffix) csrc/*/*.$(suffix) csrc/*/*/*.$(suffix)))

.DEFAULT_GOAL := help
.PHONY: help demo docs bench cubins record gpu-check gpu-pack gpu-dry reproduce test wheels sanitize lint style format venv clean distclean

help:
	@echo 'make demo       simulate, forecast, score and draw charged particles: the whole package in minutes'
	@echo 'make test       lint and the whole test suite (10 minutes on two cores; make record says what it spares)'
	@echo 'make docs       build the pages of docs/ into build/site, strictly (Python 3.11.5 or newer)'
	@echo 'make bench      time and memory against the peers, for the record on an idle machine (a quarter of an hour)'
	@echo 'make gpu-check  build, test and measure on a GPU, a table last (13 minutes at most; PY=python3 installs nothing)'
	@echo 'make gpu-pack   build here what gpu-check would build on an H100, into .gpu/ (PY=...: its Python, torch, triton)'
	@echo 'make gpu-dry    what of the GPU can be tried without one: its paths, and every launch compiled (6 minutes)'
	@echo 'make cubins     compile every CUDA kernel without a GPU, hold it to its limits and record it (8 minutes, nvcc)'
	@echo 'make record     run the tests whose verdict files and versions decide alone, and record it (7 minutes)'
	@echo 'make reproduce  the experiments of the paper that need no data, one after the other (a GPU for its settings)'
	@echo 'make wheels     what is released, into dist/, tried beside two releases of torch (nvcc, pip; a quarter of an hour)'
	@echo 'make sanitize   the tests of the C++ module under AddressSanitizer and UBSan (g++, some minutes)'
	@echo 'make lint       ruff, clang-format and mypy, changing nothing'
	@echo 'make style      the first two alone'
	@echo 'make format     ruff and clang-format, changing files'
	@echo 'make venv       set up $(VENV) and stop (every target above does it by itself)'
	@echo 'make clean      remove what was built and drawn; $(VENV) stays'
	@echo 'make distclean  remove $(VENV) too'
	@echo
	@echo 'Variables, as in `make test PYTHON=python3.12`:'
	@echo '  PYTHON      interpreter that makes $(VENV), 3.10 or newer; its torch >= 2.10 is used if it has one [$(PYTHON)]'
	@echo '  VENV        folder of the virtual environment [$(VENV)]'
	@echo '  TORCH       what to install where there is no torch yet [$(TORCH)]'
	@echo '  TORCH_ARGS  options of that pip install alone, e.g. --index-url URL for another build of PyTorch [$(TORCH_ARGS)]'
	@echo '  TRITON      what to install on Linux where torch brings no triton: its interpreter runs the GPU kernels [$(TRITON)]'
	@echo '  PIP_ARGS    options of every pip install [$(PIP_ARGS)]'
	@echo '  DEMO_ARGS   options of the demo; DEMO_ARGS=--help lists them [$(DEMO_ARGS)]'
	@echo '  JOBS        processes that share the tests: auto is one for each core, 0 runs them in one [$(JOBS)]'
	@echo '  TEST_ARGS   options of pytest, e.g. "-k equivariance -x" [$(TEST_ARGS)]'
	@echo '  BENCH_ARGS  options of the benchmark; BENCH_ARGS=--help lists them [$(BENCH_ARGS)]'
	@echo '  GPU_ARGS    options of the check on a GPU; GPU_ARGS=--help lists them [$(GPU_ARGS)]'
	@echo '  REPRODUCE_ARGS  options of every `geotdm reproduce`, e.g. "--preset small" [$(REPRODUCE_ARGS)]'
	@echo '  SANITIZE_ARGS  options of pytest under the sanitizers [$(SANITIZE_ARGS)]'
	@echo '  WHEELS_ARGS options of the builder of wheels: --no-cuda leaves the module for GPUs out [$(WHEELS_ARGS)]'
	@echo '  PY          use this interpreter as it is: no $(VENV), nothing installed, no network'

$(VENV)/.ready-%: pyproject.toml setup.py constraints.txt Makefile $(wildcard tools/*.py) $(CXX_FILES)
	@$(PYTHON) tools/make_venv.py $@ --torch '$(TORCH)' --torch-args='$(TORCH_ARGS)' --triton '$(TRITON)' --pip-args='$(PIP_ARGS)'

venv: $(READY)
	@:

bench: $(READY)
	@$(PY) -m bench.network.step --memory $(BENCH_ARGS)

cubins: $(READY)
	@$(PY) -m bench.ops.cuda_codegen

gpu-check: $(READY)
	@$(PY) -m bench.gpu_check $(GPU_ARGS)

gpu-pack: $(READY)
	@$(PY) -m bench.gpu_pack $(GPU_ARGS)

gpu-dry: $(READY)
	@$(PY) -m bench.gpu_dry

# Stopped anywhere, by --budget too, the same command goes on; what is done costs nothing.
reproduce: $(READY)
	@for request in charged 'charged --task unconditional' 'charged --task interpolation' springs gravity; do \
	  $(PY) -m geotdm_fast reproduce $$request $(REPRODUCE_ARGS) || exit $$?; \
	done

demo: $(READY)
	@$(PY) -m geotdm_fast.cli.demo $(DEMO_ARGS)

docs: $(READY)
	@$(PY) -c 'import mkdocs' 2>/dev/null || { echo 'make docs: no mkdocs; it is the extra docs, for Python 3.11.5 or newer'; exit 1; }
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

# mypy runs beside the tests: it needs one core for half a minute.
test: style
	@$(PY) -m mypy & types=$$!; \
	$(PY) -m pytest -n $(JOBS) --dist worksteal --durations=15 $(TEST_ARGS); tests=$$?; \
	wait $$types && exit $$tests

record: $(READY)
	@$(PY) -m pytest -n $(JOBS) --dist worksteal --recorded=write $(TEST_ARGS)

wheels: $(READY)
	@$(PY) -m tools.wheels $(WHEELS_ARGS)
	@$(PY) -m pytest -n 0 -m wheels tests/tools/test_wheels.py

sanitize: $(READY)
	@$(PY) tools/sanitize.py $(SANITIZE_ARGS)

lint: style
	@$(PY) -m mypy

style: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
ifneq ($(CXX_FILES),)
	@$(TOOL)clang-format --dry-run -Werror $(CXX_FILES)
endif

format: $(READY)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
ifneq ($(CXX_FILES),)
	@$(TOOL)clang-format -i $(CXX_FILES)
endif

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks demo_output
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) geotdm_fast/_C*.so geotdm_fast/kernels
