# Everything runs in .venv, which any target makes first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread: results do not depend on the machine, and two busy processes do not fight.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo cascade-demo check test lint types format torture memory delta recipes bench sketchbook cascade clean

help:  ## Show this
	@awk -F ':.*## ' '/^[a-z].*:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/done  ## Make .venv: torch for this machine (CUDA only where there is a GPU), imagic and its tools

$(VENV)/done: pyproject.toml .ci/setup
	PYTHON=$(PYTHON) .ci/setup $(VENV)
	@touch $@

demo: setup  ## Draw a bird and spread its wings with the bundled model: the three stages, no download
	mkdir -p runs/demo
	$(BIN)/imagic scene "a yellow bird perched on grass" runs/demo/bird.png --seed 4
	$(BIN)/imagic edit runs/demo/bird.png "a bird spreading wings" --eta 0,0.5,0.6,0.7,0.8,1 --seeds 8 --run runs/demo/run

# The bundled cascade: both its levels are tuned, and the pictures of both are shown.
CASCADE := $(BIN)/imagic generate --run runs/cascade-demo/run --eta 0,0.6,0.7,0.8,1 --seeds 4
cascade-demo: setup  ## The same with the small cascade: both levels tuned, the pictures of its base and of the whole
	mkdir -p runs/cascade-demo
	$(BIN)/imagic scene "a yellow bird perched on grass" runs/cascade-demo/bird.png --seed 4
	$(BIN)/imagic optimize runs/cascade-demo/bird.png "a bird spreading wings" --model sketchbook-cascade \
		--run runs/cascade-demo/run
	$(BIN)/imagic finetune --run runs/cascade-demo/run
	$(CASCADE) --size 32
	$(CASCADE)

check: lint types test  ## Format, lint, types and tests: the definition of done

lint: setup
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .

types: setup
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest -q

format: setup  ## Rewrite the files as lint wants them
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

torture: setup  ## The full numbers of the reliability tests, into docs/torture.md (resumable)
	$(BIN)/python tests/torture.py

memory: setup  ## Peak memory of a step of A and of B and of an image on the Stable Diffusion 1.x shape (860 M parameters)
	$(BIN)/python tests/bench/memory.py

delta: setup  ## How far images differ when the fine-tuned change is stored in fp16, bf16 or fp32
	$(BIN)/python tests/bench/delta.py

recipes: setup  ## Which recipe edits drawn scenes best for its time, into docs/recipes.md (resumable)
	mkdir -p runs
	$(BIN)/python tests/bench/recipes.py --work runs/recipes > runs/recipes.md
	mv runs/recipes.md docs/recipes.md

# The peer: tests/bench/peers.py says where its file comes from.
bench: setup  ## Speed and memory beside diffusers' community Imagic pipeline: make bench PEER=FILE
	$(BIN)/python tests/bench/speed.py --peer $(PEER) --model imagic_cli/sketchbook/model

# DEVICE=cuda THREADS=8 trains in minutes what takes two cores days; so many processes draw.
SKETCHBOOK := runs/sketchbook
DEVICE ?= cpu
THREADS ?= 1
# $(1): the lessons, in their order; $(2): what the last of them exports.
define trained
	for lesson in $(1); do \
		$(BIN)/python -m imagic_cli.sketchbook.train $$lesson --out $(SKETCHBOOK) --device $(DEVICE) --threads $(THREADS) || exit 1; done
	rm -rf imagic_cli/sketchbook/$(2)
	cp -r $(SKETCHBOOK)/$(2) imagic_cli/sketchbook/$(2)
	$(BIN)/python -m imagic_cli.sketchbook.measure imagic_cli/sketchbook/$(2)
endef

sketchbook: setup  ## Train the bundled model anew (resumable), measure it, and put it into the package
	$(call trained,vae clip judge unet,model)

cascade: setup  ## Train the small cascade anew (resumable), measure it, and put it into the package
	$(call trained,cascade-text cascade-base cascade-sr,cascade)

clean:  ## Remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
