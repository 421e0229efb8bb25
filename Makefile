# make demo     a few hundred agents at work, without a key: begin here
# make test     the tests
# make test-sdk   the models of transformers, with torch: six gigabytes on disk
# make test-live  the tests that ask real providers, with the keys in your environment
# make check    format, lint, types
# make bench    the benchmarks
# make docs     the documentation, as web pages in site/
#
# Each makes what it needs in .venv, with the newest Python from 3.11 on that is there, and nothing else. Name
# another one with: make PYTHON=/path/to/python3 ...

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help demo test test-sdk test-live check bench docs clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(STAMPS)/package
	@$(BIN)/manyhands demo

# Side by side, the files of tests take about half the time. More than four at once would disturb those that
# look at the clock.
test: $(STAMPS)/test $(STAMPS)/proxy $(STAMPS)/programs
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

# What the tests of models cost to install, measured on 2 cores: litellm 28 s and 0.3 GB, and 3 s at its first
# import, so it is part of the tests; its proxy 20 s and 0.4 GB more; the SDKs of OpenAI and Anthropic and the
# prices 7 s. torch takes 52 s, but 5.4 GB on disk with its libraries for GPUs, which it does not start without:
# too much for every change. transformers itself is 8 s.
test-sdk: $(STAMPS)/test $(STAMPS)/sdk
	@$(BIN)/python -m pytest tests/models $(ARGS)

test-live: $(STAMPS)/test
	@MANYHANDS_LIVE=1 $(BIN)/python -m pytest tests/models -k live $(ARGS)

check: $(STAMPS)/check
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(STAMPS)/test
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(STAMPS)/docs
	@$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

# A Python is tried before it is chosen: a name that is found may stand for nothing. An environment that is
# there and works is kept.
CHECK := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

$(STAMPS)/venv:
	@if $(BIN)/python $(CHECK) 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  mkdir -p $(STAMPS) && touch $@ && exit 0; \
	fi; \
	for python in $(PYTHON) python3.13 python3.12 python3.11 python3.14 python3 python; do \
	  if "$$python" $(CHECK) 2>/dev/null && "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" --version) ..."; \
	    "$$python" -m venv --clear $(VENV) && mkdir -p $(STAMPS) && touch $@; \
	    exit; \
	  fi; \
	done; \
	echo "make: No Python from 3.11 on was found that can make environments (with venv and ensurepip)." >&2; \
	echo "make: Install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
	exit 1

$(STAMPS)/package: pyproject.toml $(STAMPS)/venv
	@echo "Installing manyhands into $(VENV) ..."
	@$(PIP) install -e .
	@touch $@

# Groups of dependencies are read by pip from 25.1 on, which is younger than some Pythons.
$(STAMPS)/pip: $(STAMPS)/venv
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(STAMPS)/test $(STAMPS)/sdk $(STAMPS)/docs: $(STAMPS)/%: pyproject.toml $(STAMPS)/pip
	@echo "Installing the packages of '$*' ..."
	@$(PIP) install -e . --group $*
	@touch $@ $(STAMPS)/package

# LiteLLM's proxy wants older versions of what others want new: it has an environment of its own, for the tests
# that start it.
$(STAMPS)/proxy: $(STAMPS)/venv
	@echo "Installing the proxy of LiteLLM ..."
	@$(BIN)/python -m venv $(VENV)/proxy
	@$(VENV)/proxy/bin/python -m pip --disable-pip-version-check -qq install 'litellm[proxy]>=1.80'
	@touch $@

# The tests are type-checked too, so what they import has to be there.
$(STAMPS)/check: pyproject.toml $(STAMPS)/pip
	@echo "Installing what 'make check' needs ..."
	@$(PIP) install -e . --group test --group check
	@touch $@ $(STAMPS)/package $(STAMPS)/test

# Programs that some tests start: a container engine, a sandbox, a browser. Where the user may not install
# them, the tests that need them are skipped; where changes are judged (CI), nothing may be skipped.
PROGRAMS := dockerd:docker.io bwrap:bubblewrap chromium:chromium

$(STAMPS)/programs: $(STAMPS)/venv
	@missing() { \
	  for pair in $(PROGRAMS); do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || printf '%s ' "$${pair#*:}"; \
	  done; \
	}; \
	wanted="$$(missing)"; \
	if [ -n "$$wanted" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing $$wanted..."; \
	  apt-get -qq update >/dev/null 2>&1; \
	  for name in $$wanted; do \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$name >/dev/null 2>&1; \
	  done; \
	fi; \
	wanted="$$(missing)"; \
	if [ -z "$$wanted" ]; then touch $@; exit 0; fi; \
	if [ -n "$$CI" ]; then echo "make: Not installed, and CI skips no tests: $$wanted" >&2; exit 1; fi; \
	echo "Not installed: $$wanted(the tests that need them are skipped)"
