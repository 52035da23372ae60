# One command per purpose; `make help` lists them. Two environments: .venv (the product and its tests) and .venv-peers (cryodrgn, a program
# under GPL-3 that is called and never imported), each rebuilt when its lock under requirements/ is newer than the environment.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2
MODELS ?= ../shared/data/models

BIN := .venv/bin
PRODUCT := .venv/.product
DEV := .venv/.dev
PEERS := .venv-peers/.peers
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off

# The figures of a data set's summary and where its report is.
define print_headline
$(BIN)/python -c 'from cryorestore.files import read_json; from cryorestore.summary import print_headline; \
print_headline(read_json("results/$(1)/summary.json"), report="results/$(1)/report.html")'
endef

# Every process computes on one thread unless a rule or the configuration gives it more: parallel jobs and tests share the cores.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONHASHSEED := 0
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export MPLBACKEND := Agg
export PYTHONNOUSERSITE := 1

.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(PRODUCT) $(DEV) $(PEERS) ## make both environments

demo: $(PRODUCT) $(PEERS) ## the whole chain on the embedded demo (2 cores, no download of data)
	$(BIN)/snakemake --profile profiles/local --config datasets='[demo]'
	@$(call print_headline,demo)

demo-short: $(PRODUCT) $(PEERS) ## the demo with fewer particles and less training, in some minutes; its figures are worth nothing
	$(BIN)/snakemake --profile profiles/local --configfile config/test/short.yaml
	@$(call print_headline,short/demo)

demo-full: $(PRODUCT) $(PEERS) ## the demo with every control, those that train included (at most 45 minutes on 2 cores)
	$(BIN)/snakemake --profile profiles/local --config datasets='[demo]' controls='{level: full}'
	@$(call print_headline,demo)

demo-real: $(PRODUCT) $(PEERS) ## the whole chain on experimental apoferritin micrographs (EMPIAR-10146; docs/datasets.md)
	$(BIN)/snakemake --profile profiles/local --config datasets='[empiar-10146]'
	@$(call print_headline,empiar-10146)

test: $(DEV) $(PEERS) ## all tests but test-slurm and test-browser; those whose data or programs are missing say so and are skipped
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --durations 10 -m 'not slurm and not browser'

test-slurm: $(DEV) ## the tiny chain on a real SLURM of this machine, interrupted in many ways (Debian, root)
	$(BIN)/pytest -m slurm -s --durations 10 tests/slurm

test-browser: $(DEV) ## the report in a headless Chromium: of a made-up run, and those that CRYORESTORE_REPORTS names
	$(BIN)/pytest -m browser --durations 5 tests/browser

soak: fuzz $(DEV) ## fuzz, then kill -9 at 50 random moments of the tiny chain, each run to its end again (an hour or more; goes on where it was stopped)
	$(BIN)/python benchmarks/soak/soak.py

fuzz: $(DEV) ## ten thousand damaged files through every reader (minutes); the figures go to benchmarks/fuzz/results.json and docs/troubleshooting.md
	$(BIN)/python tests/fuzz/run.py --count 10000 --json benchmarks/fuzz/results.json
	$(BIN)/python tests/fuzz/table.py

bench-extraction: $(PRODUCT) ## extraction and normalization beside relion_preprocess, then their memory (an hour; quiet machine)
	$(BIN)/python benchmarks/extraction/measure.py
	$(BIN)/python benchmarks/extraction/measure.py --memory

bench-extraction-quick: $(PRODUCT) ## the same with small sets, at most four minutes
	$(BIN)/python benchmarks/extraction/measure.py --quick

bench-reconstruction: $(PRODUCT) $(PEERS) ## maps against a known truth, by use of the particles and by backend, and what they cost (quiet machine; goes on where it was stopped)
	$(BIN)/python benchmarks/reconstruction/measure.py

bench-reconstruction-quick: $(PRODUCT) $(PEERS) ## three small cells of it, measured afresh: fails unless the order of the tables holds
	$(BIN)/python benchmarks/reconstruction/measure.py --quick

bench-joint: $(PRODUCT) ## particles without map or poses restore themselves: all cells that are stale, into docs/joint.md (hours; goes on where it was stopped)
	$(BIN)/python benchmarks/joint/measure.py

bench-joint-quick: $(PRODUCT) ## two small cells of it, at most four minutes: a structure is found and noise is not
	$(BIN)/python benchmarks/joint/measure.py --quick

train-general: $(PRODUCT) ## the weights of the general restorer anew from MODELS=folder of the listed PDB entries (at most 150 minutes; goes on where it was stopped)
	mkdir -p results/general
	$(BIN)/cryorestore train-general --data-root $(MODELS) --weights results/general/general.safetensors --history results/general/history.csv \
	  --curve results/general/curve.csv --work-dir results/general/work

bench-general: $(PRODUCT) ## the general restorer on structures that it was never shown, docs/general_benchmark.md (at most 40 minutes; goes on where it was stopped)
	$(BIN)/python benchmarks/general/measure.py
	$(BIN)/python benchmarks/general/experimental.py
	$(BIN)/python benchmarks/general/montage.py
	$(BIN)/python benchmarks/general/page.py
	$(BIN)/python benchmarks/general/sampling.py
	$(BIN)/python benchmarks/general/downstream.py
	$(BIN)/python benchmarks/general/downstream.py --page

bench-general-quick: $(PRODUCT) ## a few small cells of it, at most four minutes: the order is checked
	$(BIN)/python benchmarks/general/measure.py --quick

bench-restoration: $(PRODUCT) ## restoration quality of every lane, docs/benchmark.md (hours; goes on where it was stopped)
	seq $(WORKERS) | xargs -P $(WORKERS) -I{} $(BIN)/python benchmarks/restoration/measure.py
	$(BIN)/python benchmarks/restoration/conformers.py
	$(BIN)/python benchmarks/restoration/page.py

bench-restoration-quick: $(PRODUCT) ## small sets at one SNR, at most four minutes: the order at the top is checked
	$(BIN)/python benchmarks/restoration/measure.py --quick

bench-claims: $(PRODUCT) ## the paper's claims, docs/claims.md (half an hour of a core; goes on where it was stopped)
	$(BIN)/python benchmarks/claims/measure.py
	$(BIN)/python benchmarks/claims/page.py

bench-claims-quick: $(PRODUCT) ## every kind of its cells, tiny, at most four minutes
	$(BIN)/python benchmarks/claims/measure.py --quick

peers-topaz: $(PEERS) ## Topaz-Denoise (GPL-3), for the method topaz
	.venv-peers/bin/python $(PIP_INSTALL) --no-deps topaz-em==0.3.20

peers-nc: $(PEERS) ## BM3D, whose licence allows no commercial use, for the method bm3d
	.venv-peers/bin/python $(PIP_INSTALL) --no-deps bm3d==4.0.3 bm4d==4.2.5

check: lint types unit ## lint, types, unit tests and dry-runs, in two minutes

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

types: $(DEV)
	$(BIN)/mypy

unit: $(DEV)
	$(BIN)/pytest -n $(WORKERS) -m 'not slow and not gpu and not slurm' tests/unit tests/workflow

docs: $(DEV) ## the documentation as web pages under site/
	$(BIN)/mkdocs build --strict --quiet --site-dir site

lock: ## resolve the dependencies anew and write requirements/*.lock
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && $(PYTHON) -m venv "$$scratch" && lock="$$scratch/bin/python requirements/lock.py" \
	&& $$lock requirements/product.lock -- 'setuptools>=80' . \
	&& $$lock requirements/dev.lock --without requirements/product.lock -- '.[dev]' --constraint=requirements/product.lock \
	&& $$lock requirements/peers.lock -- 'setuptools>=80' cryodrgn==4.3.1 torch==2.13.0

clean: ## caches and built pages; results and environments stay
	rm -rf site build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-results: ## results, logs and Snakemake's records
	rm -rf results logs .snakemake
	find benchmarks -mindepth 2 -name '*.tsv' -delete

distclean: clean clean-results ## everything that is not in the repository
	rm -rf .venv .venv-peers

$(PRODUCT): requirements/product.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: found $$("$(PYTHON)" --version 2>&1), expected Python 3.11 or later; install it or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python $(PIP_INSTALL) -r $<
	$(BIN)/python $(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(DEV): requirements/dev.lock $(PRODUCT)
	$(BIN)/python $(PIP_INSTALL) -r requirements/product.lock -r $<
	@touch $@

$(PEERS): requirements/peers.lock
	"$(PYTHON)" -m venv .venv-peers
	.venv-peers/bin/python $(PIP_INSTALL) -r $<
	@touch $@
