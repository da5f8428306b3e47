# The torch to install, before everything else: with it in place nothing pulls another build of it.
# A machine without a GPU takes the small CPU build:
#   make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# onnxruntime for the CPU, or for NVIDIA GPUs: make setup RUNTIME=gpu. What was set up last stays.
RUNTIME ?= $(or $(shell cat .venv/.runtime 2>/dev/null),cpu)
PYTHON ?= python3
STORE ?= store
DATA ?= ../shared/data
# Real image sets to measure the method on.
SETS = $(addprefix $(DATA)/,magnetic_tile casting metal_nut pill solar_cell)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(RUNTIME)
PEERS := bench/peers
# Two processes, a thread each. With COVERAGE=1 branches are counted, which takes half as long again.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal \
	$(if $(COVERAGE),--cov --cov-append --cov-report=)
SOURCES := app model training tests bench requirements clients

.DEFAULT_GOAL := help
.PHONY: help setup test test-all coverage check audit fix serve bench load speed quality pages demo demo-stop picture screenshots contrast lock sbom image-test

help: ## Print these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make a virtual environment in .venv with everything in it.

$(READY): pyproject.toml requirements/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip uninstall --quiet --yes $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable '.[$(RUNTIME),train,archive,otel,mlflow,s3,sinks,dev]'
	rm -f $(VENV)/.ready-*
	echo $(RUNTIME) > $(VENV)/.runtime
	touch $@

test: $(READY) ## Run the tests that need no processes or servers of their own; ends within five minutes.
	$(PYTEST) -m "not processes"

test-all: test ## Run every test; those with services, browsers and kills after the others.
	$(PYTEST) -m processes

coverage: ## Print the coverage of the last tests that were run with COVERAGE=1, child processes included.
	$(BIN)/coverage report

check: $(READY) audit ## Check format, lint, types, import rules, dead code, spelling, container files and the lock.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy --strict clients/python/goodpart_client
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/codespell $(SOURCES) docs docker README.md CHANGELOG.md Makefile pyproject.toml Dockerfile docker-compose.yml
	$(BIN)/hadolint Dockerfile
	$(BIN)/docker-compose --file docker-compose.yml --profile train config --quiet
	$(BIN)/docker-compose --file docker-compose.yml --file docker/compose.gpu.yaml --profile train config --quiet

audit: $(READY) ## Look for known vulnerabilities in the locked packages; says so without access to the database.
	@found=$$($(BIN)/pip-audit --requirement requirements/constraints.txt --no-deps --disable-pip 2>&1); code=$$?; \
	if [ $$code -ne 0 ] && echo "$$found" | grep --quiet '^Found '; then echo "$$found"; exit 1; fi; \
	if [ $$code -ne 0 ] || echo "$$found" | grep --quiet 'could not be audited'; \
	then echo "audit: not all packages could be looked up here; what could be is clean"; \
	else echo "audit: no known vulnerabilities"; fi

fix: $(READY) ## Format, and mend what the linter can mend.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

serve: $(READY) ## Serve the products in STORE on http://127.0.0.1:8000.
	$(BIN)/goodpart serve --store $(STORE)

bench: $(READY) ## Measure latency, and judge a test set over HTTP; DATA holds the data sets.
	$(BIN)/python bench/latency.py
	$(BIN)/python bench/over_http.py --data $(DATA)/magnetic_tile --product tile --store $(STORE)

load: $(READY) ## Measure the service under load on a product that is drawn and learned first; ends within five minutes.
	$(BIN)/python bench/load.py --quick --json bench/results/load.json

speed: $(READY) $(PEERS)/.models/.ready ## Measure goodpart beside anomalib's models, which are made first; takes about an hour.
	$(BIN)/python bench/speed.py --json bench/results/speed.json

$(PEERS)/.models/.ready: $(PEERS)/.venv/.ready $(PEERS)/export.py $(PEERS)/networks.py
	cd bench && peers/.venv/bin/python -m peers.export
	touch $@

$(PEERS)/.venv/.ready: $(PEERS)/requirements.txt
	$(PYTHON) $(PEERS)/make_env.py --torch '$(TORCH)'

quality: $(READY) ## Measure the method beside its baselines on the data sets in DATA; takes hours, keeps what is done.
	$(BIN)/python bench/quality.py --data $(SETS)
	$(BIN)/python bench/quality.py --data $(SETS) --split shipped \
		--methods goodpart goodpart_fast
	$(BIN)/python bench/ablations.py --data $(DATA)/magnetic_tile $(DATA)/casting $(DATA)/metal_nut

pages: $(READY) ## Write the tables of docs/ anew from the settings and from bench/results.
	$(BIN)/python bench/pages.py

demo: $(READY) ## Draw a product, learn it, serve it, and judge one good and one defective part.
	$(BIN)/goodpart demo demo

demo-stop: ## End the service that the demonstration left running.
	$(BIN)/goodpart demo demo --stop

picture: demo ## Make the picture and the answer of the README anew, from the demonstration.
	cp demo/picture.png docs/picture.png
	cp demo/defective.json docs/answer.json

screenshots: demo ## Make the pictures of the console anew, from the demonstration; takes Debian's chromium.
	$(BIN)/python bench/screenshots.py

contrast: demo ## Tell how many of the sample product's defects the demonstration's version finds.
	$(BIN)/python bench/by_contrast.py --data demo/data --store demo/store --product flange

lock: $(READY) ## Write the versions that are installed now as the constraints of every later setup and image; torch stays out.
	$(BIN)/python -m pip freeze --exclude-editable | grep --invert-match --ignore-case '^torch==' > requirements/constraints.txt
	$(BIN)/python requirements/export.py

sbom: $(READY) ## Write a bill of materials (CycloneDX) for each image into sbom/.
	mkdir -p sbom
	for image in service-cpu service-gpu training; do \
		{ cat requirements/$$image.txt; [ $$image != training ] || echo $(firstword $(TORCH)); } \
		| $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file sbom/$$image.cdx.json - \
		|| exit 1; done

image-test: $(READY) ## Build the images without a Docker engine and run them; needs root, Buildah and debootstrap. GPU=1: service-gpu too.
	$(BIN)/python -m pytest -m images -s --images-json bench/results/images.json \
		--images-with "--torch '$(TORCH)' $(if $(GPU),--gpu)" tests/test_images.py
