# make demo   the whole job on this machine: four nodes, forty rounds, the result; DEMO="--dataset digits" adds flags
# make test   every test but the long ones, by two processes;  make test-long  those
# make lint   the linters and the type checker;  make bench  the figures
# make chaos  forty rounds of MNIST while processes are killed and links are cut; SEED=3 draws other faults
# make bench-mistnet   MistNet on CIFAR-10, up to two hours on two cores; FULL=--full for the paper's nets
# make audit  known vulnerabilities of requirements/release.txt (needs the network);  make pin  makes that file again
# make fuzz   a million hostile inputs for the decoder, ten thousand hostile connections to a worker; about ten minutes
PYTHON ?= python3.11
BIN := .venv/bin
SEED ?= 1

DEMO ?=
FUZZ ?=
FULL ?=

.PHONY: setup demo test test-long chaos fuzz lint bench bench-mistnet audit pin clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not here; name yours with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
	@echo "fedws is installed in .venv: now 'make demo', or '. .venv/bin/activate' and 'fedws --help'"

demo: setup
	@$(BIN)/fedws demo --seed $(SEED) $(DEMO)

test: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m long

chaos: setup
	@$(BIN)/python -m tests.chaos --seed $(SEED)

fuzz: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[fuzz]" || echo "make: no atheris for this Python; inputs are drawn by chance alone" >&2
	@$(BIN)/python -m tests.fuzz --seed $(SEED) $(FUZZ)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples/mqtt/run.py
	$(BIN)/lint-imports --no-logo --no-cache setup.cfg

bench: setup
	@$(BIN)/python -m benchmarks

bench-mistnet: setup
	@$(BIN)/python -m benchmarks mistnet $(FULL)

audit: setup
	@$(BIN)/python -m tools.requirements.audit

pin: setup
	@$(BIN)/python -m tools.requirements.pin

clean:
	rm -rf .venv build *.egg-info
