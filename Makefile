# `make quick` and `make test` are all that a newcomer needs; both make their own environment in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where mypy sees the folders at the top as the one package that they are installed as.
PACKAGE := build/package

.PHONY: quick test check types bench format clean

## Run the suite at quick scale and write out/quick/report/index.html, also where a job failed.
quick: $(VENV)/.quick
	$(BIN)/gengauge run --scale quick; status=$$?; \
	$(BIN)/gengauge report out/quick && { [ $$status -eq 0 ] || [ $$status -eq 3 ]; }

## Check style, types and import rules, then run the tests.
test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) types

## Check types and who imports whom.
types: $(VENV)/.dev
	mkdir -p $(PACKAGE)/gengauge
	for part in benchmarks reference kernels datasets reports; do ln -sfn ../../../$$part $(PACKAGE)/gengauge/$$part; done
	MYPYPATH=$(PACKAGE) $(BIN)/mypy -p gengauge
	$(BIN)/lint-imports

## Measure the speed of everything hot into out/bench (many minutes; not part of the tests), for `gengauge compare`.
bench: $(VENV)/.dev
	mkdir -p out
	$(BIN)/python -m pytest benchmarks/speed --benchmark-enable --benchmark-only --benchmark-json=out/bench.json; \
	status=$$?; $(BIN)/gengauge ingest out/bench.json --out out/bench && exit $$status

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build out *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.quick: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[weights]'
	touch $@

$(VENV)/.dev: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[weights,dev]'
	touch $@ $(VENV)/.quick
