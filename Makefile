# make run · make test · make lab: each sets itself up on a machine with Python 3.11 and make.
PROFILE ?= workshop
SHAPE ?= storyworld
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
PIP_TOOLS = pip-tools==7.6.2
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
SHELL = bash

# Minutes on two cores. Help, the targets, README and notebook 00 say these: tests/test_minutes.py.
SETUP_MINUTES = 1 to 10
SMOKE_MINUTES = 4 to 8
WORKSHOP_MINUTES = 10 to 30
STORYWORLD_MINUTES = 120 to 280
TEST_MINUTES = 7 to 20
LINT_MINUTES = 1
QUICK_SECONDS = 30
VERIFY_MINUTES = 6 to 20
BENCH_MINUTES = 2 to 10
LOCK_MINUTES = 2
PACK_MINUTES = 1 to 10

# The user's own packages, startup files and trackers must not leak into results.
export PYTHONNOUSERSITE = 1
export JUPYTER_PREFER_ENV_PATH = 1
export IPYTHONDIR = $(CURDIR)/build/ipython
$(shell mkdir -p build/ipython)
export WANDB_MODE ?= disabled
export PYTHONWARNINGS = ignore:IProgress not found
unexport PYTHONPATH
# Hundreds of processes would compile the same modules.
unexport PYTHONDONTWRITEBYTECODE

# What a user gives is handed on as it is: neither make nor the shell reads a character of it.
GIVEN = PROFILE RESULTS CORES CLUSTER MODEL TRAIN VALIDATION SET WEIGHTS A B SHAPE DEVICE THREADS OUT REPOSITORY
$(foreach v,$(GIVEN),$(if $(filter-out undefined,$(origin $(v))),$(eval override $(v) := $$(value $(v)))))
export $(GIVEN)

.PHONY: help run model quick test lab lint lock reference verify same bench workshop slides pack site clean
.DEFAULT_GOAL := help

help:
	@echo "make run    every notebook of a profile, then a report  ($(WORKSHOP_MINUTES) minutes on two cores)"
	@echo "            PROFILE=smoke|workshop|storyworld  CORES=2  SET='seeds=[0] dict_ratio=20'"
	@echo "            PROFILE=tinystories|gpt2|published  the paper's own models, on a GPU"
	@echo "            SHRINK=1  any profile in a few steps, to try the whole path"
	@echo "            MODEL=folder-or-hub-name TRAIN=text VALIDATION=text   a model of your own"
	@echo "            CLUSTER=slurm|folder   every notebook a job of a cluster"
	@echo "make model  a real language model, SmolLM2-135M, for PROFILE=smollm2 or MODEL=smollm2  (93 MB)"
	@echo "make quick  the method alone: core, engine, losses, floors  ($(QUICK_SECONDS) seconds)"
	@echo "make test   lint, unit tests, notebooks  ($(TEST_MINUTES) minutes on two cores)"
	@echo "make lab    the notebooks in JupyterLab"
	@echo "make workshop  exercises and solutions, made of workshop/;  make slides  its slides and guide"
	@echo "            CHECK=1  executes every notebook of it, unsolved and solved"
	@echo "make pack   the workshop for a USB stick, with every package  ($(PACK_MINUTES) minutes)"
	@echo "            PLATFORMS='win_amd64 macosx_11_0_arm64'  for other machines than this one"
	@echo "make site   what GitHub Pages shows, and notebooks for Colab; REPOSITORY=owner/name  where they lie"
	@echo "make lint   ruff, mypy and the floors alone  (minutes: $(LINT_MINUTES))"
	@echo "make reference  make results/storyworld the committed reference"
	@echo "            AGAIN=1  its own analyses by the code as it is, nothing trained  ($(VERIFY_MINUTES) minutes)"
	@echo "make verify  run the reference's analyses again and compare their numbers  ($(VERIFY_MINUTES) minutes)"
	@echo "            WEIGHTS=results/storyworld  with the weights that are not shipped"
	@echo "make same A=results/smoke B=elsewhere/results/smoke   the same to the last bit, but for clocks?"
	@echo "make bench SHAPE=storyworld|llama-260k|tinystories-1m|gpt2|smollm2   milliseconds a training step"
	@echo "            DEVICE=cuda  THREADS=2  OUT=file for its JSON lines"
	@echo "make lock   resolve requirements.lock again; UPGRADE=1  the newest of everything"
	@echo "make clean  delete $(VENV), build and caches; results stay"
	@echo "The first of these to run installs requirements.lock into $(VENV) ($(SETUP_MINUTES) minutes)."

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no python3.11 found; install it or set PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "error: PYTHON is $(PYTHON), but it must be Python 3.11, 3.12 or 3.13."; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock: once, $(SETUP_MINUTES) minutes (downloads about 1 GB)."
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@# Compiled at once: a warning of a package's source, first met in a test, would be an error there.
	@# By all cores, which pip does not; what packages ship that is no Python of today stays as it is.
	@$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

run: $(READY)
	@echo "Running profile $$PROFILE: smoke $(SMOKE_MINUTES), workshop $(WORKSHOP_MINUTES), storyworld $(STORYWORLD_MINUTES) minutes on two cores."
	@$(BIN)/python -m pipeline.run --profile "$$PROFILE" $(if $(SHRINK),--shrink) \
	  $(if $(RESULTS),--results "$$RESULTS") $(if $(CORES),--cores "$$CORES") \
	  $(if $(CLUSTER),--cluster "$$CLUSTER") \
	  $(if $(MODEL),MODEL="$$MODEL") $(if $(TRAIN),TRAIN="$$TRAIN") \
	  $(if $(VALIDATION),VALIDATION="$$VALIDATION") $(if $(SET),--set "$$SET")

model: $(READY)
	@$(BIN)/python -m pipeline.models.smollm2

lint: $(READY)
	@echo "Lint, types and floors. Minutes: $(LINT_MINUTES)."
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/lint-imports

# Without what the whole suite has: checked signatures, doctests, plug-ins, and most cases of what is
# tried in many: two of four architectures, each in one of its two forms; one of four moments to stop.
EXPENSIVE = every_pair_trains or every_objective_trains_every or within_2_percent or memory_is_that_of_a_chunk or stays_still or at_a_null_channel or bf16_trains or bf16_resumes or gpt_neo or gpt2-raw or llama-processed or step-0 or step-9 or step-11
QUICK = -o addopts="--import-mode=importlib --strict-markers --disable-plugin-autoload -p xdist" \
  -p no:cacheprovider -n 2 --dist worksteal -q \
  -m "not slow" -k "not ($(EXPENSIVE))" tests/core tests/engine

quick: $(READY)
	@$(BIN)/lint-imports > build/floors.txt || { cat build/floors.txt; exit 1; }
	@$(BIN)/python -m pytest $(QUICK)
	@echo ok

test: export HF_HUB_OFFLINE = 1
test: export TQDM_DISABLE = 1
test: export OMP_NUM_THREADS = 1
test: $(READY)
	@echo "Unit tests, and beside them lint and the notebooks (smoke profile, into results/smoke): about $(TEST_MINUTES) minutes."
	@$(BIN)/python tests/run_all.py

reference: $(READY)
	@echo "Copying $(if $(AGAIN),what its analyses give now,results/storyworld) to results/reference, and its claims into the README."
	@$(BIN)/python -m pipeline.reference $(if $(AGAIN),--again,results/storyworld)

verify: export HF_HUB_OFFLINE = 1
verify: $(READY)
	@echo "Running the analyses of results/reference again in build/verify: about $(VERIFY_MINUTES) minutes."
	@$(BIN)/python -m pipeline.verify $(if $(WEIGHTS),--weights "$$WEIGHTS")

same: $(READY)
	@$(BIN)/python -m pipeline.same "$$A" "$$B"

bench: $(READY)
	@echo "Measuring training steps of shape $$SHAPE: $(BENCH_MINUTES) minutes."
	@$(BIN)/python -m benchmarks --shape "$$SHAPE" $(if $(DEVICE),--device "$$DEVICE") \
	  $(if $(THREADS),--threads "$$THREADS") $(if $(OUT),--out "$$OUT")

# JupyterLab asks whether it may fetch news, and for newer versions, and lays a box over the notebook.
NO_NEWS = --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

lab: $(READY)
	@echo "JupyterLab opens in the browser; start with notebooks/00_start_here.ipynb. Ctrl-C ends it."
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(NO_NEWS) --notebook-dir=. notebooks/00_start_here.ipynb

workshop: export HF_HUB_OFFLINE = 1
workshop: $(READY)
	@$(BIN)/python -m pipeline.workshop.generate
	@$(if $(CHECK),E2E_WORKSHOP=full $(BIN)/python -m pytest -n 2 -m slow tests/pipeline/workshop/test_workshop.py)

slides: $(READY)
	@$(BIN)/python -m pipeline.workshop.slides $(if $(RESULTS),"$$RESULTS")

pack: $(READY)
	@echo "Building and fetching packages into build/pack: $(PACK_MINUTES) minutes."
	@$(BIN)/python -m pipeline.workshop.pack $(PLATFORMS)

site: $(READY)
	@$(BIN)/python -m pipeline.workshop.site $(if $(REPOSITORY),"$$REPOSITORY")

lock:
	@echo "Resolving requirements.lock from pyproject.toml: about $(LOCK_MINUTES) minutes."
	@"$(PYTHON)" -m venv --clear build/lock-venv
	@build/lock-venv/bin/pip install --quiet --disable-pip-version-check $(PIP_TOOLS)
	@grep == requirements.lock > build/lock.txt  # what is locked stays
	@build/lock-venv/bin/pip-compile --quiet $(if $(UPGRADE),--upgrade) --all-extras --strip-extras --no-header \
	  --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --annotation-style=line --output-file build/lock.txt pyproject.toml
	@{ echo "# Every package of every extra of pyproject.toml, exactly. Written by make lock."; \
	  sed -E -e 's/^([a-z0-9._-]+==[^ +]+)\+[a-z0-9.]+/\1/' -e '/^#/d' -e '/^--/d' -e '/^$$/d' \
	  build/lock.txt; } > requirements.lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages"

clean:
	@rm -rf $(VENV) build .ruff_cache .mypy_cache .pytest_cache .hypothesis e2e_lib.egg-info
	@echo "Deleted $(VENV), build and caches; results/ stays."
