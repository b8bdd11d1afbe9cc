# One command each; all of them set up what they need in .venv.

PYTHON ?= python3
BIN := .venv/bin
# Test files that run side by side: one more than two cores have, since tests wait a lot. JOBS=0, for a debugger, runs one by one.
JOBS ?= 3
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup app demo test check audit reliability bench gpu docs links notebooks jupyter release clean

help:
	@echo "make app        open the workbench in a browser      (ARGS=\"--port 8000\")"
	@echo "make demo       train the demo and measure it"
	@echo "make test       run the tests"
	@echo "make check      lint, and every test, slow ones too"
	@echo "make audit      look for known holes in our code and in what it stands on (needs a network)"
	@echo "make reliability  try what is promised on many cases, and print a table"
	@echo "make bench      time the engine against TRL, quickly"
	@echo "make gpu        on a machine with a GPU: what works there and how fast, in nine minutes"
	@echo "make docs       build the docs into docs/_build, warnings being errors"
	@echo "make links      look whether the docs' links to elsewhere still lead there (needs a network)"
	@echo "make notebooks  execute the notebooks"
	@echo "make jupyter    open the notebooks in Jupyter"
	@echo "make release    build the wheel, and try it on Python 3.11 to 3.13, from an empty folder (ARGS=python3.13: on that)"
	@echo "make setup      only build .venv, with the kto command in it (LOCKED=1: from files of known SHA-256 alone)"
	@echo "make clean      remove .venv and what tests and builds left"

setup: .venv/ready

app: setup
	$(BIN)/python app.py $(ARGS)

demo: setup
	$(BIN)/kto demo $(ARGS)

test: .venv/ready-test
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

audit: .venv/ready-audit
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml kto_workbench app.py
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

reliability: .venv/ready-test
	$(BIN)/python -m pytest -m reliability --thorough $(ARGS)

bench: .venv/ready-bench
	$(BIN)/python -m benchmarks.vs_trl --quick $(ARGS)

gpu: .venv/ready-test
	$(BIN)/python -m benchmarks.first_gpu $(ARGS)

docs: .venv/ready-docs
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

links: .venv/ready-docs
	$(BIN)/python -m sphinx --keep-going --quiet -b linkcheck docs docs/_build/links $(ARGS)

jupyter: .venv/ready-notebooks
	$(BIN)/jupyter lab notebooks $(ARGS)

notebooks: .venv/ready-notebooks
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

release: .venv/ready
	$(BIN)/python .ci/release.py $(ARGS)

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "KTO Workbench needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Setting up .venv; the first time this downloads PyTorch and takes a few minutes."
	$(PYTHON) -m venv .venv
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement constraints-hashes.txt
endif
	$(PIP) --editable .
	@touch $@

# DeepSpeed stands beside the environment, where only the tests of `sharding: zero3` see it, since it has something to say at
# every start of Python's processes. It is built with the torch that is there, and needs no compiler for that.
DEEPSPEED := deepspeed==0.19.8 einops==0.8.2 hjson==3.1.0 msgpack==1.2.4 py-cpuinfo==9.0.0

.venv/ready-test: .venv/ready
	$(PIP) --editable ".[test]"
	$(PIP) --no-build-isolation --no-deps --target .venv/zero3 $(DEEPSPEED) || \
		echo "DeepSpeed can't be installed here, so the tests of sharding zero3 are skipped."
	@touch $@

.venv/ready-%: .venv/ready
	$(PIP) --editable ".[$*]"
	@touch $@

clean:
	rm -rf .venv build dist artifacts .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
