# make demo           run the demo on this machine: four nodes and 40 rounds; DEMO="--dataset digits" adds flags
# make test           run all tests except the long ones, in two processes
# make test-long      run the long tests
# make lint           run the linters and the type checker
# make bench          run the benchmarks
# make bench-mistnet  run MistNet on CIFAR-10, up to two hours on two cores; FULL=--full uses the models of the paper
# make chaos          run 40 rounds of MNIST with killed processes and cut links; SEED=3 draws other faults
# make fuzz           send 1,000,000 hostile inputs to the decoder and 10,000 hostile connections to a worker
#                     (about ten minutes)
# make audit          list known vulnerabilities of requirements/release.txt (needs the network)
# make pin            regenerate requirements/release.txt
PYTHON ?= python3.11
BIN := .venv/bin
SEED ?= 1

DEMO ?=
FUZZ ?=
FULL ?=

.PHONY: setup demo test test-long chaos fuzz docs reference lint bench bench-mistnet audit pin clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; choose another with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
	@echo "fedws is installed in .venv; run 'make demo', or '. .venv/bin/activate' and 'fedws --help'"

demo: setup
	@$(BIN)/fedws demo --seed $(SEED) $(DEMO)

test: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m long

chaos: setup
	@$(BIN)/python -m tests.chaos --seed $(SEED)

fuzz: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[fuzz]" || echo "make: atheris is not available for this Python; inputs are drawn at random" >&2
	@$(BIN)/python -m tests.fuzz --seed $(SEED) $(FUZZ)

docs: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "the documentation is in build/site: open build/site/index.html"

reference: setup
	@$(BIN)/python -m tools.reference

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
