# `make run` serves the built-in model; `make check` and `make test` are what CI runs.
PYTHON ?= python3
# Address of a package index that holds the torch build you want (PyTorch's CPU wheels, say).
# Empty takes torch from wherever pip is set up to look.
TORCH_INDEX ?=

BIN := .venv/bin
RUNTIME := .venv/.runtime
STAMP := .venv/.installed

.PHONY: install run test test-slow test-gpu test-chaos test-deploy check format benchmark peers \
	benchmark-peers screenshots clean

install: $(STAMP)

# torch goes first and alone, so that an index named for it is asked for nothing else.
$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --retries 0 --no-deps -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $(RUNTIME)

$(STAMP): $(RUNTIME)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

run: $(RUNTIME)
	$(BIN)/python -m app serve

# A file's tests share their services, so they stay together.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	nice -n 5 $(BIN)/python -m pytest -m slow --timeout 3600

# On a GPU machine as it is: with the environment here, or else with PYTHON's, which must have pytest
# and what pyproject.toml asks for. VARIATIONS_TEST_DEVICE=cpu runs what can be run without a GPU.
test-gpu: export VARIATIONS_TEST_DEVICE ?= cuda
test-gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m pytest -c tests/gpu/pytest.ini --rootdir . \
		--confcutdir . -p no:cacheprovider -ra --durations 10 \
		tests/gpu tests/pipeline/test_equality.py tests/pipeline/test_samples.py

# Figures go to benchmarks/results/reliability.json, and from there into docs/reliability.md.
test-chaos: install
	rm -f benchmarks/results/reliability.json
	VARIATIONS_FIGURES=$(CURDIR)/benchmarks/results/reliability.json \
		$(BIN)/python -m pytest -m chaos --timeout 3600
	$(BIN)/python -m tests.chaos.report

# Needs Debian 12 and root, for a container engine; what it installs else is in .deploy, and Ray
# beside the service.
test-deploy: install
	nice -n 5 tests/deploy/install.sh .deploy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	PATH=$(CURDIR)/.deploy/bin:$$PATH VARIATIONS_FIGURES=$(CURDIR)/benchmarks/results/ray.json \
		nice -n 5 $(BIN)/python -m pytest -m deploy --timeout 3600

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

screenshots: install
	$(BIN)/python -m tests.api.page.screenshots

benchmark: install
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.batching

# The servers that this one is compared with, in an environment of their own.
peers: .peers/.installed

.peers/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet --retries 0 --no-deps -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	.peers/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt
	touch .peers/.installed

# Hours; goes on where it was. `python -m benchmarks.peers --help` has what takes less.
benchmark-peers: install peers
	$(BIN)/python -m benchmarks.peers

clean:
	rm -rf .venv .peers .deploy .mypy_cache .ruff_cache .pytest_cache .hypothesis
