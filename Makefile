# One door for people and for CI. Every target starts from nothing; a second run installs nothing.
PYTHON  ?= python3
WORKERS ?= auto
ARGS    ?=
RACES   ?= 1000
ROUNDS  ?= 1000
TASKS   ?= 20000
KILLS   ?= 100

BIN   := .venv/bin
# The oldest that is installed.
DEBIAN_POSTGRES := $(firstword $(sort $(patsubst %/postgres,%,$(wildcard /usr/lib/postgresql/*/bin/postgres))))
READY := .venv/.ready .venv-sdk14/.ready

export BATCHYARD_SDK14_PYTHON := $(CURDIR)/.venv-sdk14/bin/python
export BATCHYARD_AZ           := $(CURDIR)/.venv-az/bin/az
export BATCHYARD_CLIENTS      := $(CURDIR)/.venv-clients
export BATCHYARD_MPI          := $(CURDIR)/.venv-mpi
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-az test-clients test-engines test-mpi test-postgres races histories chaos docs lint fix bench bench-storage mutants pythons release serve lock clean

help: ## say what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## make the environments (.venv, .venv-sdk14)

demo: .venv/.ready ## run the main job on a server of its own and print the result
	@scripts/demo $(ARGS)

test: setup ## run all tests but those of test-az, test-clients, test-mpi and test-engines; ARGS="-k name" chooses
	$(BIN)/python -m pytest -n $(WORKERS) -m "not az and not clients and not mpi and not site and not engines" $(ARGS)

test-az: setup .venv-az/.ready ## run the tests with azure-cli
	$(BIN)/python -m pytest -m az $(ARGS)

test-clients: setup .venv-clients/.ready ## run the tests with older clients, of Python and of npm
	$(BIN)/python -m pytest -m clients $(ARGS)

test-mpi: setup .venv-mpi/.ready ## run MPI programs over several nodes, as root; needs Debian's openmpi-bin, libopenmpi-dev and iproute2
	$(BIN)/python -m pytest -m mpi $(ARGS)

test-engines: setup ## run the tests with containers; installs their engines first (scripts/engines)
	scripts/engines
	$(BIN)/python -m pytest -m engines tests/containers $(ARGS)

races: setup ## try each race between a task and root RACES times (1,000)
	BATCHYARD_RACES=$(RACES) $(BIN)/python -m pytest -n 0 --timeout 0 tests/agent/test_races.py $(ARGS)

test-postgres: setup ## run the tests of store, engine, blobs, queues and their histories that make test leaves out on PostgreSQL, and those of store on Debian's; or on that of BATCHYARD_TEST_POSTGRES=URL
	$(BIN)/python -m pytest -n $(WORKERS) --driver $(if $(BATCHYARD_TEST_POSTGRES),postgres tests/store,rest) tests/engine tests/blobs tests/queues tests/histories $(ARGS)
ifeq ($(BATCHYARD_TEST_POSTGRES),)
	@[ -n "$(DEBIAN_POSTGRES)" ] || echo "no PostgreSQL of Debian here: apt-get install postgresql"
	$(if $(DEBIAN_POSTGRES),BATCHYARD_TEST_POSTGRES_PROGRAMS=$(DEBIAN_POSTGRES) $(BIN)/python -m pytest -n $(WORKERS) --driver postgres tests/store $(ARGS))
endif

histories: setup ## have 16 clients do ROUNDS operations each (1,000) on blobs and on queues, while servers are killed, and look for an order of them
	BATCHYARD_HISTORIES=$(ROUNDS) $(BIN)/python -m pytest -n 0 --timeout 0 tests/histories/test_storms.py tests/several/test_histories.py $(ARGS)

chaos: setup ## kill servers, agents and their PostgreSQL KILLS times (100) while TASKS tasks (20,000) run
	BATCHYARD_CHAOS_TASKS=$(TASKS) BATCHYARD_CHAOS_KILLS=$(KILLS) $(BIN)/python -m pytest -n 0 -s tests/several/test_chaos.py $(ARGS)

docs: .venv/.ready .venv-docs/.ready ## build the documentation as a site in build/site and check every link of it
	rm -rf build/site
	.venv-docs/bin/sphinx-build -q -W --keep-going -n -c docs/site -d build/doctrees . build/site
	$(BIN)/python -m pytest -q -m site tests/docs/test_site.py $(ARGS)

lint: .venv/.ready ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fix: .venv/.ready ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.ready ## measure this machine, each figure beside its yardstick; ARGS="--only release graph million nodes jobs beside cli" for the long ones
	$(BIN)/python bench/run.py $(ARGS)

bench-storage: .venv/.ready .venv-clients/.azurite ## measure the storage endpoint beside Azurite; ARGS="--blob-gb 10 --messages 1000000" for the large ones
	$(BIN)/python bench/run.py --only storage $(ARGS)

mutants: .venv-mutants/.ready ## change the code in 1,000 small ways and count what the tests notice; ARGS="--sample 200 --only '*outcomes*'"
	.venv-mutants/bin/python scripts/mutants $(ARGS)

pythons: setup ## run all tests with every Python from 3.11 on that is found here; ARGS="--list" only says which
	scripts/pythons $(ARGS)

release: .venv/.ready ## check, build and tag the version in src/batchyard/__init__.py; ARGS=--dry-run changes nothing
	$(BIN)/python scripts/release $(ARGS)

serve: .venv/.ready ## run a server in the foreground; ARGS="--dir D --port N"
	$(BIN)/batchyard serve $(ARGS)

lock: .venv/.ready ## choose the newest versions again (requirements/*.txt)
	scripts/lock

clean: ## remove the environments and all caches
	rm -rf .venv .venv-3.* .venv-sdk14 .venv-az .venv-clients .venv-docs .venv-mpi .venv-mutants mutants build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.ready: requirements/dev.txt pyproject.toml
	scripts/venv .venv requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

.venv-mutants/.ready: requirements/mutants.txt pyproject.toml
	scripts/venv .venv-mutants requirements/mutants.txt
	.venv-mutants/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

.venv-sdk14/.ready: requirements/sdk14.txt
	scripts/venv .venv-sdk14 requirements/sdk14.txt
	@touch $@

.venv-az/.ready: requirements/az.txt
	scripts/venv .venv-az requirements/az.txt
	@touch $@

.venv-mpi/.ready: requirements/mpi.txt scripts/mpi
	scripts/mpi .venv-mpi
	@touch $@

.venv-clients/.ready: requirements/clients.txt requirements/clients/python.txt requirements/clients/package-lock.json requirements/clients/storage.txt requirements/storage/package-lock.json scripts/clients scripts/npm
	scripts/venv .venv-clients requirements/clients.txt
	scripts/clients .venv-clients
	@touch $@

.venv-clients/.azurite: .venv-clients/.ready requirements/azurite/package-lock.json
	scripts/npm .venv-clients requirements/azurite .venv-clients/azurite
	@touch $@

.venv-docs/.ready: requirements/docs.txt requirements/docs/package-lock.json scripts/npm
	scripts/venv .venv-docs requirements/docs.txt
	scripts/npm .venv-docs requirements/docs .venv-docs/npm
	mv .venv-docs/npm/node_modules/mermaid/dist/mermaid.min.js .venv-docs/
	rm -rf .venv-docs/npm
	@touch $@
