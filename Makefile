# make demo    a rotated and a shifted digit, certified (installs first)
# make serve   the service, until Ctrl-C      SURETY_HOST, SURETY_PORT
# make test    everything that must hold before a commit
# make audit   known vulnerabilities of the installed dependencies
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# torch comes first and alone: resolving it together with torchvision would pull the CUDA wheels
TORCH := torch==2.13.0
# another index to look at for torch, such as the CPU-only wheels of pytorch.org (smaller download)
TORCH_INDEX ?=
DATA ?= data
# processes that test side by side, a file of tests on one of them; auto: as many as there are cores
WORKERS ?= auto
TESTED = --pilot-images 1000 --quantile 0.997 --images 4000

.PHONY: help install demo serve test lint kernels pytest audit clean
.PHONY: train-rotation train-translation calibrate-rotation calibrate-translation evaluate

help:
	@sed -n 's/^# make /make /p' Makefile
	@echo 'also: install lint kernels pytest train-rotation train-translation calibrate-rotation'
	@echo '      calibrate-translation evaluate clean      (DATA=$(DATA): root with MNIST/raw)'

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) )$(TORCH)
	$(PY) -m pip install -e '.[dev]'
	touch $(STAMP)

demo: install
	$(PY) -m service.demo

serve: install
	exec $(PY) -m service.cli serve

lint: install
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

# once, before processes that would each do so begin
kernels: install
	$(PY) -c 'from gpu.targets import warm_up; warm_up("cpu")'

pytest: kernels
	$(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# kernels are compiled while the linters run
test: install
	$(MAKE) --jobs=2 lint kernels
	$(MAKE) pytest

audit: install
	$(PY) .ci/audit.py

train-rotation train-translation: train-%: install
	$(PY) -m service.cli train models/zoo/mnist-$*/card.toml --data $(DATA) --epochs 40 --seed 1

calibrate-rotation: install
	$(PY) -m service.cli calibrate models/zoo/mnist-rotation/card.toml --data $(DATA) --attack-range 30 \
		--image-is reference $(TESTED) --seed 61
	$(PY) -m service.cli calibrate models/zoo/mnist-rotation/card.toml --data $(DATA) --attack-range 30 \
		--image-is received $(TESTED) --seed 52

calibrate-translation: install
	$(PY) -m service.cli calibrate models/zoo/mnist-translation/card.toml --data $(DATA) --attack-range 1 \
		--image-is reference $(TESTED) --seed 53
	$(PY) -m service.cli calibrate models/zoo/mnist-translation/card.toml --data $(DATA) --attack-range 1 \
		--image-is received $(TESTED) --seed 54
	$(PY) -m service.cli calibrate models/zoo/mnist-translation/card.toml --data $(DATA) --attack-range 2 \
		--image-is reference $(TESTED) --seed 55
	$(PY) -m service.cli calibrate models/zoo/mnist-translation/card.toml --data $(DATA) --attack-range 2 \
		--image-is received $(TESTED) --seed 56

evaluate: install
	$(PY) -m benchmarks.paper_settings --data $(DATA)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
