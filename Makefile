# Needs make and Python 3.11, 3.12 or 3.13. `make help` lists what there is.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV = .venv
BIN = $(VENV)/bin
RUNTIMES = .venv-runtimes
SAMPLE ?= runs/sample
QUICK ?= runs/benchmark-quick
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet
ONE = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Where there are wheels of coreai-core: Linux on x86-64 with glibc 2.34 or later (on a Mac it is left out).
HAS_COREAI = import platform as p; glibc = p.libc_ver()[1] or "0"; exit(p.machine() != "x86_64" or [*map(int, glibc.split("."))] < [2, 34])
TESTS = $(ONE) TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.DEFAULT_GOAL = help
.PHONY: help chromium quickstart test test-all runtimes lint style schemas diagrams docs sample-report benchmark-quick clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo "  PYTHON=python3.12        another Python for .venv (now $(PYTHON))"
	@echo "  TORCH=\"torch==2.13.0 …\"  what pip is given for torch, options included (now $(TORCH))"

quickstart: $(VENV)/.installed  ## Install, run studies/quickstart.yaml, train the best of its front until it draws; each says where its results are
	$(BIN)/archsearch run studies/quickstart.yaml
	$(BIN)/archsearch train 'runs/quickstart#best-quality' --study emoji --output runs/quickstart-best

test: $(VENV)/.installed-dev  ## Install what tests need, run all but the slow ones
	$(TESTS) -m "not slow" -n 2

test-all: $(VENV)/.installed-all $(RUNTIMES)/.installed chromium docs  ## Install every extra, build the site, run the slow tests: optional runtimes, Ray, the wheel in an empty folder
	$(TESTS) -m slow -n 2 --dist loadfile

lint: $(VENV)/.installed-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(VENV)/.installed-dev  ## Format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chromium:  ## Install the browser of the report's tests where there is none, as root on Debian; else say what is needed
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	else echo "error: the report's tests need chromium; install it with your system's packages, then run make test-all again." >&2; exit 2; fi

schemas: $(VENV)/.installed  ## Write docs/schemas again
	$(BIN)/python -m tools.schemas docs/schemas

diagrams: $(VENV)/.installed  ## Draw the pictures of docs/architectures.md again
	$(BIN)/python -m tools.diagrams docs/images

docs: $(VENV)/.installed-docs  ## Build the documentation site into site/; whatever it warns of is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@$(MAKE) --no-print-directory sample-report

sample-report: $(SAMPLE)/report.html  ## Put a run's report into site/; SAMPLE=runs/quickstart takes that run, else a short search makes one
	@mkdir -p site
	cp $< site/sample-report.html

$(SAMPLE)/report.html: | $(VENV)/.installed-docs
	$(BIN)/archsearch run studies/quickstart.yaml --output $(@D) --trials 8 \
		--set search.minutes=null --set search.rungs.count=1 --set proxy.samples=272 --set metrics.images=32

benchmark-quick: $(VENV)/.installed  ## Repeat the benchmarks in a reduced form, in a quarter of an hour; one recorded training is done again and compared
	@mkdir -p $(QUICK)
	$(ONE) $(BIN)/archsearch benchmark record benchmarks/table --network 40 --again --output $(QUICK)/recorded
	$(ONE) $(BIN)/archsearch benchmark replay --seeds 2
	$(ONE) $(BIN)/python benchmarks/search.py --seeds 2 --trials 20 --random-trials 20 --samplers surrogate,random,tpe --keep $(QUICK)/simulated
	$(ONE) $(BIN)/python benchmarks/cost_speed.py
	$(ONE) $(BIN)/python benchmarks/price_all.py
	$(ONE) $(BIN)/python benchmarks/lookup_speed.py
	$(ONE) $(BIN)/python benchmarks/ask_tell.py --trials 100 --block 50
	$(ONE) $(BIN)/python benchmarks/forward_speed.py --rounds 5
	$(BIN)/python benchmarks/quickstart.py --minutes 4 --output $(QUICK)/quickstart

clean:  ## Remove build products and caches; .venv, .venv-runtimes and runs/ stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# The environment. A stamp stands for a finished step; it is made again when a file it depends on changes.

$(VENV)/.torch:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: '$(PYTHON)' was not found. Name a Python from 3.11 to 3.13: make PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else "error: Python 3.11, 3.12 or 3.13 is needed, but $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[docs,report]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[all,dev,docs]'
	if $(BIN)/python -c '$(HAS_COREAI)'; then $(PIP) -c constraints.txt -e '.[coreai]'; fi
	@touch $@

# OpenVINO, ncnn and ExecuTorch, in an environment of their own: `archsearch latency measure --runtime-python $(RUNTIMES)/bin/python`.

runtimes: $(RUNTIMES)/.installed  ## Install the runtimes that want an environment of their own, into .venv-runtimes

$(RUNTIMES)/.installed: $(VENV)/.torch constraints-runtimes.txt
	"$(PYTHON)" -m venv $(RUNTIMES)
	$(RUNTIMES)/bin/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	$(RUNTIMES)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints-runtimes.txt \
		torch numpy pydantic pyyaml onnx openvino ncnn pnnx executorch
	@touch $@
