# The command line on a CPU, nobody's rights: docker run --rm --network none -v "$PWD:/work" IMAGE run recipe.yaml
# Everything but torch is installed by hash (requirements.lock, `make lock`); torch is the CPU's build, from its own index.
FROM python:3.12-slim-bookworm AS build
ARG VERSION=0.1.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION}
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/convert
ENV PATH=/opt/convert/bin:$PATH
WORKDIR /src
COPY requirements.lock constraints.txt ./
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)"
RUN pip install --no-deps --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-deps . && convert --version

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 convert
COPY --from=build /opt/convert /opt/convert
ENV PATH=/opt/convert/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/home/convert/hub CONVERT_CACHE_HOME=/home/convert/cache
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["convert"]
CMD ["--help"]
