# Two commands do everything on a machine with Python 3.11 or newer, make and a package index: `make book`, `make test`.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOCKED := --require-hashes --only-binary :all: -r requirements.txt

# One thread per process: the records are trained so, the numbers repeat, and small nets lose time with more.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

# Set in many containers; each of the many processes would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

# Processes side by side in tests: as many as cores, up to four, each of which can need 3 GB of memory.
JOBS ?= $(shell $(PYTHON) -c 'import os; memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"); \
    print(max(2, min(4, len(os.sched_getaffinity(0)), memory // 2**32)))')

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book test lint smoke clean distclean lock

# Times are of 2 cores with AVX2 only and without other work, rounded up; with AVX-512 about half of it.
help:
	@echo "target                 cost             what it does"
	@echo "make book              4 min            build the book from the published records, print its front page"
	@echo "make book SCALE=smoke  6 min            the same after training every experiment on generated images"
	@echo "                                        (SCALE=laptop: real data, hours on 2 cores; SCALE=gpu: one GPU)"
	@echo "make test              13 min           lint, tests, published numbers, smoke training, pages of the book"
	@echo "                                        (JOBS=n processes; else two to four, by cores and memory)"
	@echo "make smoke             5 min            only the smoke training: each notebook once on generated images"
	@echo "make lint              1 min            ruff and mypy; seconds when nothing changed"
	@echo "make setup             2 min            install: 3.2 GB of downloads, 6.2 GB on disk; the others call it"
	@echo "                                        when it is due (their first call takes that much longer)"
	@echo "make clean             1 s              remove what was built; keep .venv, data sets and all runs"
	@echo "make distclean         5 s              make clean, and remove .venv and build/ with the runs of your own"
	@echo "make lock              10 s             for maintainers: write requirements.txt from pyproject.toml"

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

# The book comes before the tests, so that its pages are tested among them; its one process leaves a core to mypy. What
# its pages show is right when nbval, afterwards, finds what the notebooks hold.
test: setup
	@echo "== ruff; mypy and the book of the notebooks as they are kept"
	@$(PY) -m ruff check .
	@printf '%s\n' '-m mypy' 'book/build.py --kept' | xargs -P 2 -L 1 $(PY)
	@echo "== tests"
	@$(PY) -m pytest -p no:nbval -n $(JOBS) --dist loadfile --no-loadscope-reorder tests/book tests/test_*.py
	@echo "== notebooks: every published number follows from the records"
	@$(PY) -m pytest --nbval --nbval-current-env --nbval-cell-timeout 600 -n $(JOBS) --dist loadfile notebooks
	@$(MAKE) --no-print-directory smoke

# Always from nothing, so that the trainings happen: the records go to a folder of their own. Trained in one go, which
# starts fewer processes, and read by the notebooks; but for 03, which trains what it needs by itself.
smoke: export ALEXNET_RUNS = $(CURDIR)/build/smoke/runs
smoke: export ALEXNET_CACHE = $(CURDIR)/build/smoke/cache
smoke: setup
	@echo "== smoke training"
	@rm -rf build/smoke
	@$(PY) -m alexnet_lib run --scale smoke recipe relu_vs_tanh lrn two_towers dropout augmentation depth \
	    training_details ensembles alexnet imagenet_ablations bigger_and_more
	@printf '%s\n' notebooks/*.ipynb | \
	    xargs -P $(JOBS) -n 5 $(PY) -m alexnet_lib notebook --scale smoke --out build/smoke/notebooks

lint: setup
	@echo "== ruff, mypy"
	@$(PY) -m ruff check .
	@$(PY) -m mypy

# Runs of one's own (build/runs, build/runs-SCALE) took hours perhaps: only distclean removes them.
clean:
	test ! -d build || find build -mindepth 1 -maxdepth 1 -not -name 'runs*' -exec rm -rf {} +
	rm -rf book/_build book/_stage book/_vendor .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf build $(VENV)

# Keeps the pins that still fit; for newer ones remove requirements.txt first.
lock:
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest \
	    --all-extras --generate-hashes --only-binary :all: --no-emit-index-url --no-emit-find-links \
	    --annotation-style line --custom-compile-command "make lock" --output-file requirements.txt pyproject.toml
