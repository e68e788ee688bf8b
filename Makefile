# Two commands do everything on a machine with Python 3.11 or newer, make and a package index: `make book`, `make test`.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOCKED := --require-hashes --only-binary :all: -r requirements.txt

# One thread per process: the records are trained so, the numbers repeat, and small nets lose time with more.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book test lint smoke clean distclean lock

help:
	@echo "make book               build the book from the published records, print its front page"
	@echo "make book SCALE=smoke   retrain every experiment on made-up images first, then build the book of those runs"
	@echo "                        (SCALE=laptop: hours on 2 cores, real data; SCALE=gpu: one GPU)"
	@echo "make test               lint, types, tests, every notebook's numbers, a smoke training, every page of the book"
	@echo "make smoke              only the smoke training: every notebook once on made-up images"
	@echo "make setup              only the installation, which the others do by themselves where it is due"
	@echo "make lint               ruff and mypy"
	@echo "make clean              remove what was built; keep .venv, data sets and records"
	@echo "make distclean          make clean, and remove .venv"
	@echo "make lock               for maintainers: write requirements.txt from pyproject.toml"

# Installed once; again when the lock or the project's metadata change, or when .venv lost its Python.
setup: $(INSTALLED)

ifeq ($(wildcard $(PY)),)
.PHONY: $(INSTALLED)
endif

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: '$(PYTHON)' is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	    echo "make: '$(PYTHON)' can't make virtual environments; install its venv module" \
	         "(Debian, Ubuntu: the package python3-venv)" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the packages of requirements.txt into $(VENV)"
	@sed -n '/^uv==/,/# via/p' requirements.txt | $(PY) -m pip install --quiet --require-hashes --no-deps -r /dev/stdin
	@$(PY) -m uv pip install --python $(PY) $(LOCKED) || { \
	    echo "make: uv could not install them; trying pip, which may know another package index"; \
	    $(PY) -m pip install $(LOCKED); }
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

book: setup
	@$(PY) book/build.py $(if $(SCALE),--scale $(SCALE))

test: lint
	@echo "== tests"
	@$(PY) -m pytest -p no:nbval
	@echo "== notebooks: every published number follows from the records"
	@$(PY) -m pytest --nbval --nbval-current-env --nbval-cell-timeout 600 notebooks
	@$(MAKE) --no-print-directory smoke
	@echo "== book"
	@$(MAKE) --no-print-directory book SCALE=
	@$(PY) -m pytest -p no:nbval tests/book

# Always from nothing, so that the trainings happen: the records go to a folder of their own.
smoke: setup
	@echo "== smoke training"
	@rm -rf build/smoke
	@ALEXNET_RUNS=$(CURDIR)/build/smoke/runs $(PY) -m alexnet_lib notebook --scale smoke --out build/smoke/notebooks

lint: setup
	@echo "== ruff, mypy"
	@$(PY) -m ruff check .
	@$(PY) -m mypy

clean:
	rm -rf build book/_build book/_stage book/_vendor .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

# Keeps the pins that still fit; for newer ones remove requirements.txt first.
lock:
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest \
	    --all-extras --generate-hashes --only-binary :all: --no-emit-index-url --no-emit-find-links \
	    --annotation-style line --custom-compile-command "make lock" --output-file requirements.txt pyproject.toml
