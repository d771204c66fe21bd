SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench soak docs install clean

install: $(VENV)/.installed  ## make .venv with Squall and everything it needs

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python -a -x $(BIN)/pip || tools/make-venv.sh $(VENV) $(PYTHON)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,aws,dev]'
	touch $@

demo: install  ## the whole set-up and the main job
	$(BIN)/squall demo

test: install  ## every test of the project
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## print the figures of tests/bench and write bench.json
	$(BIN)/python -m tests.bench

soak: install  ## payments under random kills, direct and relayed; MINUTES=5 each
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5) --relay

docs: install  ## write the generated pages again
	$(BIN)/python -m shared.wire.reference docs/messages.md
	$(BIN)/python -m tests.support.configuration
	$(BIN)/python -m tests.support.channel_states
	$(BIN)/python -m tests.support.pages
	$(BIN)/python -m shared.fabric.configuration nats

clean:
	rm -rf $(VENV) .cache bench.json
