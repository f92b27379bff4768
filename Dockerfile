# syntax=docker/dockerfile:1
# One image for every role; docker-compose.yml names the command of each.
#   CPU:  docker build -t errata:cpu .
#   GPU:  docker build -t errata:gpu --build-arg VARIANT=gpu .
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# cpu: the small CPU build of torch; gpu: the build with CUDA, which is the default of the package index.
ARG VARIANT=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/errata
WORKDIR /src
COPY constraints.txt ./
RUN case "$VARIANT" in \
      cpu) /opt/errata/bin/pip install --no-deps --index-url "$TORCH_CPU_INDEX" -c constraints.txt torch ;; \
      gpu) /opt/errata/bin/pip install -c constraints.txt torch ;; \
      *) echo "VARIANT is cpu or gpu, not $VARIANT" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY broker broker
COPY errata errata
COPY examples examples
COPY ledger ledger
COPY malmen_core malmen_core
COPY migrations migrations
COPY problems problems
COPY service service
COPY worker worker
RUN /opt/errata/bin/pip install -c constraints.txt .

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin errata \
 && install -d -o errata -g errata /var/lib/errata /var/lib/errata/blobs /var/lib/errata/models
COPY --from=build /opt/errata /opt/errata
ENV PATH=/opt/errata/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ERRATA_HOST=0.0.0.0 \
    ERRATA_PORT=8000 \
    ERRATA_BLOB_URL=/var/lib/errata/blobs \
    ERRATA_MODELS_DIR=/var/lib/errata/models \
    ERRATA_ADMIN_KEY_FILE=/var/lib/errata/admin.key
USER errata
WORKDIR /var/lib/errata
VOLUME ["/var/lib/errata"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "errata.health", "api"]
CMD ["python", "-m", "service"]
