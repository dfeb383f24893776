# Two commands set everything up: `make demo` and `make test`. Both keep their packages in .venv.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/python .ci/uv
RECIPE ?= recipes/demo.yaml
CHROMIUM := DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends chromium
NODE := DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends nodejs npm

# uv leaves bytecode to the first import, which is faster in all than compiling 16,000 files of which few are imported: let it be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-full test test-web web browser check lowest test-lowest constraints lock bench scale faults parity variants onnx-classes \
	format docs clean hostile crash fuzz audit sbom

demo: .venv/installed
	$(BIN)/convert run $(RECIPE)

# Every type and every runtime: about ten minutes more.
demo-full: RECIPE = recipes/demo-full.yaml
demo-full: demo

test: .venv/installed browser
	$(BIN)/pytest -n 2 --dist worksteal

# Debian's Chromium for the tests of report.html. Where it cannot be had, they are skipped and say how to get it.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		command -v apt-get >/dev/null && test "$$(id -u)" = 0 && echo "installing Chromium for the tests of report.html" && \
		{ $(CHROMIUM) || { timeout 300 apt-get update -qq && $(CHROMIUM); }; } >/dev/null 2>&1; \
	} || echo "no Chromium: the tests of report.html in a browser are skipped"

# transformers.js for the page of `convert serve`, the runtime transformers_js and the tests of both: from npm, by node 20.
web: .cache/web/node_modules/.package-lock.json
.cache/web/node_modules/.package-lock.json: web/package-lock.json
	@command -v npm >/dev/null || { command -v apt-get >/dev/null && test "$$(id -u)" = 0 && echo "installing Node.js" && \
		{ $(NODE) || { timeout 300 apt-get update -qq && $(NODE); }; } >/dev/null 2>&1; \
	} || { echo "no npm: install Node.js 20 or newer, then \`make web\`"; exit 1; }
	mkdir -p .cache/web
	cp web/package.json web/package-lock.json .cache/web
	npm ci --prefix .cache/web --ignore-scripts --no-audit --no-fund

test-web: .venv/installed web browser
	$(BIN)/pytest tests/web

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The lower bounds of pyproject.toml: whether they fit together, in .cache/lowest.txt.
lowest: .venv/installed
	mkdir -p .cache
	$(UV) pip compile --resolution lowest-direct --all-extras --no-annotate --no-header -o .cache/lowest.txt pyproject.toml

# And whether the project does what it should with them: bytes of the encoders, files, the command line.
test-lowest: lowest
	test -x .cache/lowest/bin/python || $(PYTHON) -m venv .cache/lowest
	.cache/lowest/bin/python .ci/uv pip install -c .cache/lowest.txt -e '.[all,dev]'
	.cache/lowest/bin/pytest tests/quantize tests/gguf tests/test_cli.py tests/test_recipe.py tests/test_run.py tests/validate/test_runtimes.py

# Pins of everything that '.[all,dev]' brings. What is pinned stays as it is where it can: delete a line to have its package's newest.
# torch is pinned without "+cpu", so that the pin is right for every build of it.
constraints: .venv/installed
	mkdir -p .cache
	sed '/^#/d' constraints.txt > .cache/pins.txt
	$(UV) pip compile --all-extras --no-annotate --no-header -o .cache/pins.txt pyproject.toml
	{ sed -n '/^#/p' constraints.txt; sed 's/+cpu$$//' .cache/pins.txt | sort -f; } > .cache/constraints.txt
	mv .cache/constraints.txt constraints.txt

# The container's packages by hash. torch is not among them: the CPU's build has another index (Dockerfile).
LOCKED := validate pickle inspect onnx genai openvino sign stores
lock: .venv/installed
	mkdir -p .cache
	sed '/^#/d' constraints.txt > .cache/pins.txt
	$(UV) pip compile --python-version 3.12 --python-platform x86_64-manylinux_2_36 $(addprefix --extra ,$(LOCKED)) \
		--generate-hashes --no-emit-package torch --no-annotate --no-header -c .cache/pins.txt -o .cache/lock.txt pyproject.toml
	{ sed -n '/^#/p' requirements.lock; cat .cache/lock.txt; } > .cache/requirements.lock
	mv .cache/requirements.lock requirements.lock

# About twenty minutes on two cores, and 25 GB of disk: LLAMA_CPP is a checkout with llama-quantize built in it; without one it says how to get it.
bench: .venv/installed
	$(BIN)/python -m tests.bench.encoders
	$(BIN)/python -m tests.bench.fixed_cost
	$(BIN)/python -m tests.bench.end_to_end $(if $(LLAMA_CPP),--peer $(LLAMA_CPP)) $(BENCH)

# Batches at scale: beside a shell loop, on a Ray cluster of processes whose parts are killed, and a simulated one of
# 1,000 nodes. About half an hour on two idle cores.
scale: .venv/installed
	$(BIN)/python -m tests.scale batch
	$(BIN)/python -m tests.scale kills
	$(BIN)/python -m tests.scale simulation

# Real damage of many kinds, made on honest outputs of six models: whether validation finds each and names its place.
# About fifteen minutes on two idle cores; the honest outputs are kept in .cache/faults.
faults: .venv/installed
	$(BIN)/python -m tests.faults

# Every hostile input there is through the command line, each in a process of its own with limits of time and memory:
# about fifteen minutes on two idle cores. HOSTILE="--only pickle" for a part.
hostile: .venv/installed
	$(BIN)/python -m tests.robust.hostile $(HOSTILE)

# 200 kills over all stages, full and read-only disks, EIO, little memory, a clock set back: about an hour. As root it makes
# small file systems of its own; CRASH="--light --kills 20" for less.
crash: .venv/installed
	$(BIN)/python -m tests.robust.crash $(CRASH)

# Coverage-guided fuzzing (atheris) of every reader, so many minutes in all.
MINUTES ?= 60
fuzz: .venv/fuzz
	$(BIN)/python -m tests.robust.fuzz --minutes $(MINUTES) $(FUZZ)

.venv/fuzz: .venv/installed
	$(UV) pip install -c constraints.txt -e '.[fuzz]'
	touch $@

# Known holes in what is pinned (asks PyPI), licences of what is installed, and a bill of materials in build/.
audit: .venv/installed
	$(BIN)/python .ci/audit

sbom: .venv/installed
	$(BIN)/python .ci/audit --sbom

# llama.cpp's own converter beside ours on every tiny checkpoint, and all that `make test` tries on one of each family
# on every variant: LLAMA_CPP is a checkout of llama.cpp; without one its sources are fetched (77 MB, the sdist of
# llama-cpp-python) into .cache.
VARIANTS_TOO := tests/parity tests/architectures tests/model tests/gguf/test_honest_files.py tests/test_supports.py \
	tests/test_quantizer.py tests/test_compressed_families.py
parity: .venv/installed $(if $(LLAMA_CPP),,.cache/llama.cpp)
	ALL_VARIANTS=1 LLAMA_CPP="$(LLAMA_CPP)" $(BIN)/pytest -n 2 --dist worksteal $(VARIANTS_TOO)
	$(BIN)/python -m tests.peer_vocabularies "$(or $(LLAMA_CPP),.cache/llama.cpp)"

.cache/llama.cpp:
	mkdir -p .cache
	$(BIN)/pip download --quiet --no-deps --no-binary llama-cpp-python -d .cache llama-cpp-python==0.3.36
	tar -xzf .cache/llama_cpp_python-0.3.36.tar.gz -C .cache llama_cpp_python-0.3.36/vendor/llama.cpp
	mv .cache/llama_cpp_python-0.3.36/vendor/llama.cpp $@

# Every family's tiny checkpoint in every variant, as F32: how many were run, and how many were called wrong.
variants: .venv/installed
	$(BIN)/python -m tests.parity.variants

# Every class of the page docs/reference/onnx-classes.md, exported in every precision and compared with transformers.
onnx-classes: .venv/installed
	$(BIN)/python -m tests.onnx.table --write

# The documentation, into build/docs. Strict: a link that leads nowhere, or a page outside the navigation, fails it.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/docs/index.html"

.venv/docs: .venv/installed
	$(UV) pip install -c constraints.txt -e '.[docs]'
	touch $@

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# constraints.txt pins torch: left to itself, an installer may fetch another build of it with gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt .ci/uv
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(UV) pip install -c constraints.txt -e '.[all,dev]'
	touch $@

clean:
	rm -rf .venv .cache out build *.egg-info .mypy_cache .ruff_cache .import_linter_cache
