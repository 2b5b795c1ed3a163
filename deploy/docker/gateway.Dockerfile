# Gateway, supervisor and command line: no torch, no model.
FROM docker.io/library/python:3.11-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY services services
COPY shared shared
RUN pip install --no-cache-dir --constraint constraints.txt . && useradd --create-home --uid 10001 penstock
USER penstock
CMD ["python", "-P", "-m", "services.gateway"]
