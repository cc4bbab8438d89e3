# The lab's verbs. `make` alone explains them; each recipe is one command, the work is in scripts/.
# Settings come from the command line (make run-cpu PORT=9000) or the environment.

PYTHON ?= python3
VENV := .venv/bin/python
# Fast and silent once the tools are there; doctor works before that, with the system's Python.
ANY_PYTHON = $(if $(wildcard $(VENV)),$(VENV),$(PYTHON))
MAKEFLAGS += --no-print-directory
# Some systems (WSL) set NAME to the machine's name: only the command line names a VM.
ifeq ($(origin NAME),environment)
unexport NAME
endif
.DEFAULT_GOAL := help

##@ Use the lab
run-cpu: .venv/.stamp ## start the lab (build it first if needed) and print its URL
	@$(VENV) -m scripts.start cpu
run-gpu: .venv/.stamp ## the same with CUDA, on this machine's NVIDIA GPU
	@$(VENV) -m scripts.start gpu
run-local: .venv/.stamp ## the same lab in a venv, without a container, until Ctrl-C
	@$(VENV) -m scripts.local
url: .venv/.stamp ## print the running lab's URL and nothing else
	@$(VENV) -m scripts.url
status: .venv/.stamp ## what runs, since when, with how much memory
	@$(VENV) -m scripts.status
logs: .venv/.stamp ## what the server wrote (FOLLOW=1: go on until Ctrl-C)
	@$(VENV) -m scripts.logs
shell: .venv/.stamp ## a shell inside the lab
	@$(VENV) -m scripts.shell
stop: .venv/.stamp ## stop the lab; work, packages and token are kept
	@$(VENV) -m scripts.stop
restart: .venv/.stamp ## stop and start it
	@$(VENV) -m scripts.restart
token-rotate: .venv/.stamp ## replace the token; the old one ends at once
	@$(VENV) -m scripts.token_rotate

##@ In the cloud (Azure)
vm-create: .venv/.stamp ## create a VM with the right lab on it, from nothing (SIZE=… REGION=…), print its URL
	@$(VENV) -m provision.create
vm-url: .venv/.stamp ## print the URL; opens the way again when your address has changed
	@$(VENV) -m provision.url
vm-status: .venv/.stamp ## the VM, since when, its lab, and what goes on costing
	@$(VENV) -m provision.status
vm-ssh: .venv/.stamp ## a shell on the VM
	@$(VENV) -m provision.open_ssh
vm-tunnel: .venv/.stamp ## its lab at localhost, through SSH, until Ctrl-C
	@$(VENV) -m provision.tunnel
vm-logs: .venv/.stamp ## what the VM did and said, first boot included (FOLLOW=1)
	@$(VENV) -m provision.logs
vm-sync: .venv/.stamp ## bring this checkout to the VM and run it there
	@$(VENV) -m provision.sync
vm-pull: .venv/.stamp ## fetch the VM's workspace into a new folder under pulled/
	@$(VENV) -m provision.pull
vm-stop: .venv/.stamp ## deallocate it: only disk and address go on costing
	@$(VENV) -m provision.stop
vm-start: .venv/.stamp ## start it again and print the URL
	@$(VENV) -m provision.start
vm-delete: .venv/.stamp ## list what will go, ask, and delete it all (YES=1: do not ask)
	@$(VENV) -m provision.delete

##@ Look after it
doctor: ## what was found, what is wrong, what to do; works before anything is installed
	@$(ANY_PYTHON) -m scripts.doctor
build: .venv/.stamp ## build the CPU image now
	@$(VENV) -m scripts.build cpu
build-gpu: .venv/.stamp ## build the CUDA image that fits this machine, or another's: CUDA=12 or 13
	@$(VENV) -m scripts.build gpu
clean: .venv/.stamp ## remove container and images; never the workspace, token or home
	@$(VENV) -m scripts.clean

##@ Work on it
test: .venv/.stamp-dev ## every test; image and browser tests need the engine and Chromium
	@$(VENV) -m pytest
test-fast: .venv/.stamp-dev ## the tests that need no engine, in seconds
	@$(VENV) -m pytest tests/unit
test-vm: .venv/.stamp-dev ## the cloud VM under emulation: first boot, reboot, kill; needs root and QEMU, minutes
	@$(VENV) -m pytest tests/provision/test_vm.py
lint: .venv/.stamp-dev ## ruff, mypy, shellcheck and the rest of pre-commit
	@$(VENV) -m pre_commit run --all-files
bench: .venv/.stamp-dev ## speed and size against a plain image, as ratios; writes bench.json
	@$(VENV) -m tests.bench
audit: .venv/.stamp-dev ## known vulnerabilities of every locked package (AUDIT_URL: another service than OSV)
	@$(VENV) -m scripts.audit
sbom: .venv/.stamp-dev ## what is in the built image, as CycloneDX JSON on stdout (CUDA=13: that image)
	@$(VENV) -m scripts.sbom
lock: .venv/.stamp-dev ## compile every lock file again, with today's versions
	@$(VENV) -m scripts.lock
help: ## this page
	@$(ANY_PYTHON) -m scripts.help

.venv/.stamp: uv.lock pyproject.toml
	@$(PYTHON) scripts/tools.py
.venv/.stamp-dev: uv.lock pyproject.toml
	@$(PYTHON) scripts/tools.py dev && touch .venv/.stamp

.PHONY: run-cpu run-gpu run-local url status logs shell stop restart token-rotate doctor build build-gpu clean test test-fast test-vm lint bench audit sbom lock help \
  vm-create vm-url vm-status vm-ssh vm-tunnel vm-logs vm-sync vm-pull vm-stop vm-start vm-delete
