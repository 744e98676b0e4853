# Every target sets itself up first. `make help` lists them.
#
#   CONFIG=path.yaml   another configuration than <paper>/configs/quick.yaml
#   ARGS="..."         further arguments for the script, e.g. ARGS="--set steps=500 --out runs/short"
#   PYTHON=python      use this interpreter (an active conda environment, say) instead of .venv
#   TORCH="..."        what `make setup` asks pip for, e.g. TORCH="torch==2.9.1 torchvision"; by default torch and
#                      torchvision: with CUDA where nvidia-smi is found, else their smaller build for the CPU

SHELL  := /bin/bash
PAPERS := $(patsubst %/train.py,%,$(wildcard */train.py))

# What everybody gets, and what tests, checks, benchmarks and API pages take on top.
EXTRAS := viewer
TOOLS  := dev,colmap,log

# PyTorch keeps its builds without CUDA, a fraction of the size, on an index of their own.
CPU_INDEX := https://download.pytorch.org/whl/cpu

ifdef PYTHON
PY    := $(PYTHON)
READY := check-python
TESTS := check-python
else
PY    := .venv/bin/python
READY := .venv/.ready
TESTS := .venv/.tools
endif

# One test process per core, each with one thread: more threads than cores would only slow each other down.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --dist loadscope

.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-lowest mutants lint bench gpu-check docs tour compare results clean $(foreach p,$(PAPERS),train-$(p) eval-$(p) table-$(p))

help: ## this list
	@echo "usage: make TARGET [CONFIG=file.yaml] [ARGS=\"...\"] [PYTHON=python]"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'
	@for p in $(PAPERS); do \
	    printf "  %-20s %s\n" "train-$$p" "train and evaluate $$p (CONFIG=$$p/configs/quick.yaml)"; \
	    printf "  %-20s %s\n" "eval-$$p" "evaluate a finished run again (ARGS=\"--run DIR\")"; \
	    printf "  %-20s %s\n" "table-$$p" "train every row of the paper's table and print it"; \
	done

setup: $(READY) ## create .venv (2-10 minutes, downloads PyTorch; TORCH="...")

# torch and torchvision are asked for together, so that the index hands out a matching pair.
.venv/.ready: pyproject.toml
	@command -v python3 >/dev/null || { echo "python3 (3.11 or newer) is needed but was not found"; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; python3 is $$(python3 --version). Try: make PYTHON=python with a conda environment"; exit 1; }
	python3 -m venv .venv
	@index=; \
	if [ -z "$(TORCH)" ] && ! command -v nvidia-smi >/dev/null; then \
	    if .venv/bin/python -c 'import urllib.request as u; u.urlopen("$(CPU_INDEX)/torch/", timeout=15)' 2>/dev/null; \
	    then echo "no GPU here (no nvidia-smi): installing PyTorch for the CPU"; index="--index-url $(CPU_INDEX)"; \
	    else echo "$(CPU_INDEX) cannot be reached: installing PyTorch's default build, which may be larger"; fi; \
	fi; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $$index $(or $(TORCH),torch torchvision)
	@.venv/bin/python -c 'import torchvision' || { echo "torch and torchvision do not fit each other: name a pair, TORCH=\"...\""; exit 1; }
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@
	@echo "next: source .venv/bin/activate    (in every new shell, for the commands that begin with python)"

.venv/.tools: .venv/.ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS),$(TOOLS)]'
	@touch $@

.PHONY: check-python
check-python:
	@$(PY) -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "torchvision", "shared"))))' || \
	    { echo "$(PY) lacks the packages; run once: $(PY) -m pip install --editable '.[$(EXTRAS),$(TOOLS)]'"; exit 1; }

define PAPER_TARGETS
train-$(1): $$(READY)
	$$(PY) -m $(1).train --config $$(or $$(CONFIG),$(1)/configs/quick.yaml) $$(ARGS)
eval-$(1): $$(READY)
	$$(PY) -m $(1).eval $$(or $$(ARGS),--run runs/$(1)-$$(basename $$(notdir $$(or $$(CONFIG),quick.yaml))))
table-$(1): $$(READY)
	$$(PY) -m $(1).table $$(and $$(CONFIG),--config $$(CONFIG)) $$(ARGS)
endef
$(foreach p,$(PAPERS),$(eval $(call PAPER_TARGETS,$(p))))

test: $(TESTS) ## all tests a newcomer needs (at most 6 minutes on two cores)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(TESTS) ## also the slow ones
	$(PYTEST) $(ARGS)

mutants: $(TESTS) ## small mistakes made on purpose: which does no test notice? (ARGS=FILE, minutes each)
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.mutants $(ARGS)

.venv-lowest/.ready: pyproject.toml
	python3 -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --python .venv-lowest --resolution lowest-direct --editable '.[$(EXTRAS),$(TOOLS)]'
	@touch $@

test-lowest: .venv-lowest/.ready ## the tests in an environment of the oldest packages that pyproject.toml allows
	$(subst $(PY),.venv-lowest/bin/python,$(PYTEST)) -m "not slow" $(ARGS)

lint: $(TESTS) ## ruff, and the types by pyrefly
	$(PY) -m ruff check .
	$(PY) -m pyrefly check

bench: $(TESTS) ## every hot operation next to its plain twin, as ratios in one run
	$(PY) -m benchmarks.run $(ARGS)

gpu-check: $(READY) ## a GPU against the CPU, and full-size steps on it: results/gpu/<card>.json (8 minutes)
	$(PY) -m benchmarks.gpu_check $(ARGS)

docs: $(TESTS) ## API pages from the docstrings, in build/docs
	$(PY) -m pdoc -o build/docs shared '!shared.tests' scenes '!scenes.tests' $(foreach p,$(PAPERS),$(p) '!$(p).tests')

tour: $(READY) ## run the notebook docs/tour.ipynb again (extra: notebook)
	@$(PY) -c 'import nbclient, ipykernel' 2>/dev/null || \
	    { echo "the notebook needs more packages: $(PY) -m pip install --editable '.[notebook]'"; exit 1; }
	$(PY) -c 'import nbclient, nbformat; tour = nbformat.read("docs/tour.ipynb", 4); \
	    nbclient.NotebookClient(tour, timeout=None, record_timing=False).execute(); nbformat.write(tour, "docs/tour.ipynb")'

compare: $(READY) ## one scene captured four ways, all methods on one truth (ARGS="--train", or your own CAPTURE/)
	$(PY) -m showcase.compare $(ARGS)

results: $(READY) ## write RESULTS.md and the figures in the READMEs from results/
	$(PY) -m showcase.results

clean: ## remove caches (never runs or data)
	rm -rf .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
