# Two commands set everything up: `make demo` and `make test`. Both keep their packages in .venv.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= recipes/demo.yaml

.PHONY: demo test check format clean

demo: .venv/installed
	$(BIN)/convert run $(RECIPE)

test: .venv/installed
	$(BIN)/pytest -n 2 --dist worksteal

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch comes first and pinned: left to itself, pip would fetch another build of it with gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[validate,pickle,dev]'
	touch $@

clean:
	rm -rf .venv out build *.egg-info .mypy_cache .ruff_cache .import_linter_cache
