# The one door to this repository. `make help` lists the targets.
# Each recipe is what you would type yourself after `make host venv link` and `. build/venv/bin/activate`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# Debian's own interpreter, whatever else is first in PATH.
PYTHON ?= /usr/bin/python3
INVENTORY ?= inventories/reference
PRODUCT ?= gateway
# Any value builds a development image with instrumentation, which taints its version.
INSTRUMENTED ?=
SCENARIO ?=
# Directory of wheels that takes the place of pip's index. `make import` fills the default.
WHEELS ?= $(wildcard build/wheels)
# What `make export` wrote, for `make import`.
ARCHIVE ?=
# More options for the command that a target runs, as in `make build ARGS="--limit gateway -v"`.
ARGS ?=

VENV := build/venv
COLLECTIONS := build/collections
COLLECTION := $(COLLECTIONS)/ansible_collections/vauban/fleet
PLAYBOOK = ansible-playbook -i $(INVENTORY) $(ARGS)
BUILD = $(PLAYBOOK) playbooks/build.yml --limit $(PRODUCT) \
	$(if $(INSTRUMENTED),-e '{"product_instrumentation": ["serial_root_shell"]}')
# The files name every package, so pip resolves nothing; and it compiles nothing.
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
	--require-hashes --no-deps --only-binary :all:

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Ansible refuses to start without UTF-8.
export LC_ALL := C.UTF-8
export HYPOTHESIS_STORAGE_DIRECTORY := build/cache/hypothesis
# Molecule looks elsewhere in a collection unless told.
export MOLECULE_GLOB := molecule/*/molecule.yml

##@ Prepare

.PHONY: help host host-test venv dev link collections requirements
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { print "\n" substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

host: ## Install the few Debian packages a build needs (asks for root)
	scripts/host-packages

host-test: ## Install the Debian packages that only tests need, among them a browser (asks for root)
	scripts/host-packages tests/bindep.txt

venv: $(VENV)/.runtime ## Install Ansible and our libraries into build/venv, every file checked against its hash
$(VENV)/.runtime: requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) $(if $(WHEELS),--no-index --find-links $(WHEELS)) -r requirements.txt
	touch $@

dev: $(VENV)/.dev collections ## Add the tools of tests and checks to build/venv
$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP_INSTALL) -r requirements.txt -r requirements-dev.txt
	touch $@

link: $(COLLECTION) ## Make this checkout the installed collection
$(COLLECTION):
	mkdir -p $(@D)
	ln -sn ../../../.. $@

collections: $(COLLECTIONS)/.unpacked ## Take the collections that ours depends on out of package ansible
$(COLLECTIONS)/.unpacked: requirements-collections.txt galaxy.yml $(VENV)/.runtime
	$(VENV)/bin/python scripts/unpack-collections $(COLLECTIONS) $(if $(WHEELS),--no-index --find-links $(WHEELS))
	touch $@

requirements: dev ## Write requirements*.txt anew from requirements*.in
	for name in requirements requirements-dev; do \
		uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--custom-compile-command 'make requirements' --output-file $$name.txt $$name.in; \
	done
	uv pip compile --quiet --upgrade --no-deps --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make requirements' --output-file requirements-collections.txt \
		requirements-collections.in

##@ Build

.PHONY: lock pki build fetch try export import
lock: host venv link ## Resolve the package sets and write the lock file
	$(PLAYBOOK) playbooks/lock.yml

pki: host venv link ## Make the signing keys of a development set-up
	$(PLAYBOOK) playbooks/pki.yml

build: host venv link ## Build a product (PRODUCT=gateway; PRODUCT=products builds all; INSTRUMENTED=)
	$(BUILD)

fetch: host venv link ## Only fetch the packages that a product needs
	$(BUILD) --tags fetch

try: host venv link ## Boot a product in a VM (PRODUCT=gateway INSTRUMENTED=)
	$(BUILD)
	scripts/try build/$(PRODUCT)/current

export: host venv link ## Pack all that a machine without a network needs into one archive
	$(PLAYBOOK) playbooks/export_assets.yml

import: ## Unpack such an archive for the builds of this checkout (ARCHIVE=file)
	scripts/import-assets $(ARCHIVE)

.PHONY: render site-pki
render: host venv link ## Render and check the configuration of a site's hosts (INVENTORY=inventories/example_site)
	ansible-playbook -i $(INVENTORY) $(ARGS) playbooks/render.yml

site-pki: venv link collections ## List the certificates of a site; ARGS="-e site_pki_verb=create ..." does more
	ansible-playbook -i $(INVENTORY) $(ARGS) playbooks/site_pki.yml
render site-pki: INVENTORY = inventories/example_site

.PHONY: testbed testbed-end
testbed: host dev link ## A site on this machine: a provisioning server installs three bare machines (docs/provisioning.md)
	@# Molecule keeps in the user's cache that it made one; `make clean` has taken it.
	test -d build/molecule/provision || molecule destroy --scenario-name provision
	molecule converge --scenario-name provision
	@printf '\n%s\n' 'The machines run on. Consoles: build/molecule/provision/rack/*/serial.log' \
		'What came of it: build/molecule/provision/report.json' 'The end: make testbed-end'

testbed-end: dev link ## Switch the machines of the testbed off, and remove them
	molecule destroy --scenario-name provision

##@ Test

.PHONY: test test-all builds build-instrumented lint style ansible-lint sanity importer
.PHONY: unit integration extended e2e molecule molecule-changed bench
# Cheap stages first; integration tests run the tools of the SDK, which the build makes. Most programs of lint and unit
# tests use one processor: what + joins runs side by side.
STAGES = host host-test dev link lint+unit builds integration e2e
test: STAGES += molecule-changed
test-all: STAGES += extended molecule
test: ## What every change must pass
test-all: ## The same with builds from nothing and all molecule scenarios, not only those that a change touches
test test-all:
	@scripts/stages $(STAGES)

lint: dev link ## Static checks, ansible-test sanity and Galaxy's import checks
	@MAKEFLAGS= ARGS= scripts/stages ansible-lint+sanity+importer+style

style: dev link
	ruff check
	mypy
	yamllint --strict .
	antsibull-changelog lint
	antsibull-docs lint-collection-docs --plugin-docs .

ansible-lint: dev link
	ansible-lint

sanity: dev ## ansible-test sanity alone (ARGS="--test validate-modules")
	scripts/sanity $(ARGS)

builds: host venv link
	@scripts/stages build+build-instrumented
	@# Nothing is made: build/PRODUCT/current shall be the release without instrumentation, whichever was ready first.
	$(MAKE) --no-print-directory build

build-instrumented:
	$(MAKE) --no-print-directory build INSTRUMENTED=1

unit: dev link ## Unit tests
	pytest tests/unit $(ARGS)

integration: dev link ## Tests of modules against real tools
	pytest tests/integration -m "not extended" --numprocesses 2 $(ARGS)

extended: dev link ## The slow ones among both: whole builds from nothing, long waits
	pytest tests/integration tests/e2e -m extended $(ARGS)

e2e: dev link ## Boot the built images and try them
	pytest tests/e2e -m "not extended" --numprocesses 2 $(ARGS)

molecule: dev link ## Molecule scenarios: all, or SCENARIO=name
	molecule test $(if $(SCENARIO),--scenario-name $(SCENARIO),--all) $(ARGS)

molecule-changed: dev link
	scenarios=$$(scripts/molecule-changed); for scenario in $$scenarios; do molecule test --scenario-name $$scenario; done

importer: dist ## What Galaxy checks when a collection is published
	cd build/dist && GALAXY_IMPORTER_RUN_ANSIBLE_LINT=false python -m galaxy_importer.main vauban-fleet-*.tar.gz

bench: dev link ## Print the figures of docs/performance.md
	for script in tests/bench/*.py; do python $$script; done

##@ Release

.PHONY: docs dist clean
docs: dev link ## Write what is made from the model of a site: its reference and the schema for editors
	PYTHONPATH=build/collections python -m ansible_collections.vauban.fleet.plugins.plugin_utils._site.reference

dist: dev ## Pack the collection into build/dist
	rm -rf build/dist
	ansible-galaxy collection build --output-path build/dist

clean: ## Delete everything that was made from the sources
	rm -rf build
