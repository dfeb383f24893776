# Two commands set everything up: `make demo` and `make test`. Both keep their packages in .venv.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= recipes/demo.yaml
CHROMIUM := DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends chromium

.PHONY: demo test browser check bench parity format clean

demo: .venv/installed
	$(BIN)/convert run $(RECIPE)

test: .venv/installed browser
	$(BIN)/pytest -n 2 --dist worksteal

# Debian's Chromium for the tests of report.html. Where it cannot be had, they are skipped and say how to get it.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		command -v apt-get >/dev/null && test "$$(id -u)" = 0 && echo "installing Chromium for the tests of report.html" && \
		{ $(CHROMIUM) || { timeout 300 apt-get update -qq && $(CHROMIUM); }; } >/dev/null 2>&1; \
	} || echo "no Chromium: the tests of report.html in a browser are skipped"

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# About twenty minutes on two cores, and 25 GB of disk: LLAMA_CPP is a checkout with llama-quantize built in it; without one it says how to get it.
bench: .venv/installed
	$(BIN)/python -m tests.bench.encoders
	$(BIN)/python -m tests.bench.fixed_cost
	$(BIN)/python -m tests.bench.end_to_end $(if $(LLAMA_CPP),--peer $(LLAMA_CPP)) $(BENCH)

# llama.cpp's own converter beside ours on every tiny checkpoint: LLAMA_CPP is a checkout of it; without one its sources
# are fetched (77 MB, the sdist of llama-cpp-python) into .cache.
parity: .venv/installed $(if $(LLAMA_CPP),,.cache/llama.cpp)
	LLAMA_CPP="$(LLAMA_CPP)" $(BIN)/pytest -n 2 --dist worksteal tests/parity
	$(BIN)/python -m tests.peer_vocabularies "$(or $(LLAMA_CPP),.cache/llama.cpp)"

.cache/llama.cpp:
	mkdir -p .cache
	$(BIN)/pip download --quiet --no-deps --no-binary llama-cpp-python -d .cache llama-cpp-python==0.3.36
	tar -xzf .cache/llama_cpp_python-0.3.36.tar.gz -C .cache llama_cpp_python-0.3.36/vendor/llama.cpp
	mv .cache/llama_cpp_python-0.3.36/vendor/llama.cpp $@

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch comes first and pinned: left to itself, pip would fetch another build of it with gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

clean:
	rm -rf .venv .cache out build *.egg-info .mypy_cache .ruff_cache .import_linter_cache
