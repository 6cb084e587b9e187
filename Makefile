# docker-livemig: every task. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PREFIX ?= /usr/local
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PYTEST := PYTHONUNBUFFERED=1 $(PY) -m pytest -v
TESTS ?= tests
KERNEL ?= 6.1
KERNEL_CONFIGS ?= debug.config
VMS ?=

LIBDIR := $(PREFIX)/lib/docker-livemig
PLUGIN := $(PREFIX)/lib/docker/cli-plugins/docker-livemig
C_FILES = $(shell git ls-files '*.c' '*.h' '*.cc')
KERNEL_FILES = $(shell git ls-files "kmod/*.[ch]" ":!kmod/selftests")

.PHONY: help
help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: deps
deps: apt-deps $(VENV)/.stamp ## Install what is missing: Docker, compilers, a virtual environment

.PHONY: apt-deps
apt-deps:
	@PYTHON=$(PYTHON) tests/hosts/deps.sh

.PHONY: venv
venv: $(VENV)/.stamp ## Make the virtual environment

$(VENV)/.stamp: pyproject.toml
	@PYTHON=$(PYTHON) tests/hosts/deps.sh --only-venv
	@[ -x $(PY) ] || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(PIP) --editable '.[dev]' 2>$(VENV)/pip.log || { cat $(VENV)/pip.log >&2; exit 1; }
	@touch $@

.PHONY: stub
stub: ## Compile the stub, the hold program and what Python cannot do
	@$(MAKE) -s -C engine/livemig/stub
	@$(MAKE) -s -C engine/livemig/system

.PHONY: build
build: deps stub ## Everything that the demo and the tests need

.PHONY: images
images: deps ## Build the recorder's image, or see that it is in the cache
	@$(PY) -m tests.hosts images

.PHONY: hosts
hosts: build ## Start two Docker hosts on this machine, lma and lmb
	@$(PY) -m tests.hosts up

.PHONY: hosts-down
hosts-down: $(VENV)/.stamp ## End them and remove what they kept
	@$(PY) -m tests.hosts down

.PHONY: demo
demo: build ## Move a running container between two hosts while somebody types into it
	@$(PY) -m tests.demo

# Where the tests of guests are asked for (LIVEMIG_REQUIRE), so is what they start from.
GUESTS = $(if $(findstring vm,$(LIVEMIG_REQUIRE)),vm-prepare)
CHOSEN = $(filter-out tests,$(TESTS))
RUN_TESTS = $(if $(CHOSEN),$(PYTEST) $(CHOSEN),$(PY) -m tests.run -v)

.PHONY: test
test: build $(GUESTS) ## Run every test that this machine can run, but the long ones
	@$(RUN_TESTS) -m 'not long'

.PHONY: vm-deps
vm-deps: build ## Install what guests need: QEMU, debootstrap
	@PYTHON=$(PYTHON) tests/hosts/deps.sh --vm

.PHONY: vm-prepare
vm-prepare: vm-deps kernel-deps ## Have in the cache what the tests of guests start from
	@$(PY) -m tests.vm prepare

.PHONY: vm-debian
vm-debian: vm-deps ## Debian 12 as it is installed, in a guest: make demo and make test there
	@$(PY) -m tests.vm up --bare
	@$(PY) -m tests.vm demo
	@$(PY) -m tests.vm test

.PHONY: vm-debian-up
vm-debian-up: vm-deps ## Start that guest with all that the tests need, and a clone of HEAD
	@$(PY) -m tests.vm up

.PHONY: vm-debian-down
vm-debian-down: $(VENV)/.stamp ## End it and forget its disk
	@$(PY) -m tests.vm down

.PHONY: test-long
test-long: build $(GUESTS) ## Run the long ones too (hours)
	@$(RUN_TESTS)

.PHONY: lint
lint: deps ## Style, types, dependencies between packages
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@clang-format --dry-run -Werror $(C_FILES)
	@kernel-patch/checkpatch.sh build/checkpatch $(KERNEL_FILES)
	@$(PY) -m pytest -q tests/unit/test_imports.py

.PHONY: format
format: deps ## Bring all sources into their format
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@clang-format -i $(C_FILES)

.PHONY: bench
bench: build ## Measure downtime, total time and bytes (BENCH_JSON=FILE for the numbers)
	@PYTHONUNBUFFERED=1 $(PY) -m tests.bench

.PHONY: bench-vm
bench-vm: vm-prepare ## Measure in two guests: the device against the stub, moves against CRIU's
	@PYTHONUNBUFFERED=1 $(PY) -m tests.bench.vm

.PHONY: install
install: stub ## Install the plugin and its runtime on this machine (PREFIX=/usr/local)
	@PYTHON=$(PYTHON) tests/hosts/deps.sh --only-venv
	rm -rf build/lib build/bdist.*
	$(PYTHON) -m venv $(LIBDIR)
	$(LIBDIR)/bin/python -m pip install --quiet --disable-pip-version-check .
	install -D -m 0755 plugin/docker_livemig/livemig-runc $(PREFIX)/bin/livemig-runc
	install -d $(dir $(PLUGIN))
	printf '#!/bin/sh\nexec %s -I -m docker_livemig.main "$$@"\n' $(LIBDIR)/bin/python >$(PLUGIN)
	chmod 0755 $(PLUGIN)
	@echo "now run: docker livemig setup"

.PHONY: uninstall
uninstall: ## Remove what install put there; refused while a container depends on it
	[ ! -x $(LIBDIR)/bin/python ] || $(LIBDIR)/bin/python -I -m docker_livemig.main setup --undo
	rm -rf $(LIBDIR)
	rm -f $(PLUGIN) $(PREFIX)/bin/livemig-runc

.PHONY: kernel-deps
kernel-deps: build ## Install what builds kernels: Debian's sources, flex, bison, ccache
	@PYTHON=$(PYTHON) tests/hosts/deps.sh --kernel

.PHONY: kernel
kernel: kernel-deps ## Build a patched kernel into the cache (KERNEL=6.1, KERNEL_CONFIGS="debug.config")
	@$(PY) -m tests.vm kernel $(KERNEL) $(KERNEL_CONFIGS)

.PHONY: kernel-check
kernel-check: kernel-deps ## See that the patches apply to the sources that they were made for
	@$(PY) -m tests.vm kernel-check

.PHONY: kmod
kmod: ## Build the module for the kernel whose build directory is KDIR
	@$(MAKE) -s -C kmod $(if $(KDIR),KDIR=$(KDIR))

.PHONY: kmod-load
kmod-load: kmod ## Load it into the kernel that runs
	@[ ! -e /dev/livemig ] || rmmod livemig
	insmod kmod/livemig.ko

.PHONY: vms
vms: vm-prepare ## Start two machines with the device, vm1 and vm2 (VMS="6.1-debug 6.12": their kernels)
	@$(PY) -m tests.vm pair $(VMS)

.PHONY: vms-down
vms-down: $(VENV)/.stamp ## End them and forget their disks
	@$(PY) -m tests.vm pair-down

.PHONY: test-vm
test-vm: vm-prepare ## The tests of guests alone
	@$(PYTEST) -m 'vm and not long' tests/vm

.PHONY: test-kernels
test-kernels: vm-prepare ## All tests of guests, with every kernel, the address sanitizer included
	@$(PYTEST) -m vm tests/vm
	@LIVEMIG_KERNELS=6.12-debug $(PYTEST) -m vm tests/vm/test_device.py tests/vm/test_machines.py
	@LIVEMIG_KERNELS='6.1-debug 6.12-debug' $(PYTEST) -m vm tests/vm/test_machines.py
	@LIVEMIG_KERNELS=6.1-debug-kasan $(PYTEST) -m vm tests/vm/test_device.py

.PHONY: clean
clean: ## Remove what was built; the virtual environment and the image cache stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@[ ! -e engine/livemig/stub/Makefile ] || $(MAKE) -s -C engine/livemig/stub clean
	@[ ! -e engine/livemig/system/Makefile ] || $(MAKE) -s -C engine/livemig/system clean
