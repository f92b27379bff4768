# syntax=docker/dockerfile:1
# One image for every role; docker-compose.yml and deploy/kubernetes name the command of each.
#   CPU:  docker build -t errata:cpu .
#   GPU:  docker build -t errata:gpu --build-arg VARIANT=gpu .
# A change of code changes the last layer alone: what it depends on is installed before it is copied.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS dependencies
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
COPY requirements.lock ./
RUN /opt/errata/bin/pip install --no-deps --require-hashes -r requirements.lock

FROM dependencies AS build
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
RUN /opt/errata/bin/pip install --no-deps --target /opt/code .

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin errata \
 && install -d -o errata -g errata /var/lib/errata /var/lib/errata/blobs /var/lib/errata/hub /var/lib/errata/models
COPY --from=dependencies /opt/errata /opt/errata
COPY --from=build /opt/code /opt/code
ENV PATH=/opt/code/bin:/opt/errata/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/lib/errata/hub \
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
