# Two commands do everything: `make demo` and `make test`. Both first do what `make install` does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
PACKAGES := imaging_core fhir_adapter smart_launch ai_container ingestion_functions clinician_app batch infra
NODE_PACKAGES := $(wildcard infra/local/*/package-lock.json tests/*/package-lock.json)
# The machine's own python3 where it is new enough, else a newer one beside it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

.PHONY: help install demo test lint types check bench train requirements lock debian-packages

help: ## Show the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## Make .venv with everything for the local stack; start nothing

$(STAMP): requirements/lock.txt requirements/functions-host.txt setup.cfg $(NODE_PACKAGES)
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11, 3.12 or 3.13 with the venv module is needed (Debian: apt-get install python3-venv)"; exit 1; fi
	echo "installing into $(VENV) with $$($(PYTHON) --version); this takes a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	# Microsoft's Functions worker core declares Python >= 3.13 and runs on 3.11 and 3.12: docs/decisions.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --ignore-requires-python -r requirements/functions-host.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -c 'from infra.local.stack import install; install()'
	touch $@

demo: $(STAMP) ## Start the whole stack, send real images through it (ARGS=--once stops afterwards)
	@exec $(BIN)/imaging demo $(ARGS)

test: debian-packages $(STAMP) lint types ## Lint, types and all tests
	@exec $(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	@$(BIN)/mypy $(addprefix -p ,$(PACKAGES)) 

check: lint types ## Lint and types only

bench: $(STAMP) ## Run the benchmarks and rewrite docs/benchmarks.md
	@exec $(BIN)/python -m tests.benchmarks $(ARGS)

train: $(STAMP) ## Train the shipped model anew (ARGS="--data DIR --out DIR")
	@exec $(BIN)/python -m ai_container.training $(ARGS)

requirements: $(STAMP) ## Rewrite docs/requirements.md and docs/settings.md
	@$(BIN)/python -m tests.settings_page
	exec $(BIN)/python -m tests.requirements

debian-packages:
	@missing=$$(tests/debian_packages.sh)
	if [ -n "$$missing" ]; then
		if [ "$$(id -u)" = 0 ]; then
			echo "installing Debian packages for the tests: $$missing"
			apt-get update -q >/dev/null
			DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >/dev/null
		else
			echo "the tests need these Debian packages: $$missing"
			echo "install them (sudo apt-get install $$missing), then run make test again"
			exit 1
		fi
	fi

lock: ## Resolve the lock files in requirements/ anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate setup.cfg --all-extras -c requirements/constraints.txt -o requirements/lock.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate setup.cfg --extra serve -c requirements/lock.txt -o requirements/ai-serve.txt
