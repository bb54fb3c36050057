# Variations behind HTTP, on port 8000. Build arguments (deploy/README.md explains them):
#   TORCH_INDEX  package index that holds the torch build you want; empty takes the CUDA build
#   MODEL        hub id of a checkpoint to put into the image; empty leaves the built-in one
#   REVISION     of MODEL; empty takes the known one
#   HF_ENDPOINT  mirror of the hub to fetch MODEL from

FROM python:3.11-slim AS build
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# From what changes least to what changes most: torch, the other libraries, our own code. torch goes
# first and alone, so that an index named for it is asked for nothing else, and without its headers
# and tests.
COPY constraints.txt .
ARG TORCH_INDEX=""
RUN python3 -m pip --python /opt/venv/bin/python install --retries 0 --no-deps \
        -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && rm -rf /opt/venv/lib/python3.11/site-packages/torch/include \
        /opt/venv/lib/python3.11/site-packages/torch/test

# An image cannot be extended with pip afterwards, so the extras for traces, NVML and signatures are in it.
COPY pyproject.toml .
RUN python3 -c 'import tomllib; \
        project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        extras = project["optional-dependencies"]; \
        print(*project["dependencies"], *extras["otel"], *extras["nvml"], *extras["c2pa"], sep="\n")' > requirements.txt \
    && python3 -m pip --python /opt/venv/bin/python install -c constraints.txt -r requirements.txt

# Our code stays out of the environment: a new version of it is a layer of megabytes to pull.
COPY README.md LICENSE ./
COPY app app
RUN python3 -m pip --python /opt/venv/bin/python install --no-deps --target /opt/app .


FROM build AS model
ARG MODEL=""
ARG REVISION=""
ARG HF_ENDPOINT
ENV HF_HOME=/cache PYTHONPATH=/opt/app
WORKDIR /cache
RUN test -z "$MODEL" || /opt/venv/bin/python -c 'import sys; \
        from app.pipeline.hub import find_checkpoint; \
        from app.pipeline.known import known_revision; \
        model, revision = sys.argv[1:]; \
        find_checkpoint(model, revision or known_revision(model), lambda *_: None)' \
        "$MODEL" "$REVISION"


FROM python:3.11-slim
LABEL org.opencontainers.image.title="variations" \
      org.opencontainers.image.description="Variations of a picture, behind HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"

# By number, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin variations
COPY --from=build /opt/venv /opt/venv
COPY --from=model --chown=10001:10001 /cache /cache
COPY --from=build /opt/app /opt/app

# HOME and HF_HOME are the only places that are written to: uploads and CUDA's compiled kernels,
# and checkpoints. Mount both where the root is read-only. A checkpoint in the image is all there
# is to serve, so the hub is not asked for a newer one.
ARG MODEL=""
ARG REVISION=""
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/cache \
    HF_HUB_OFFLINE=${MODEL:+1} \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VARIATIONS_HOST=0.0.0.0 \
    VARIATIONS_MODEL=${MODEL:-demo} \
    VARIATIONS_REVISION=${REVISION}
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000

# Whether it is alive, not whether it is ready: a checkpoint may take minutes to come. Without
# proxies, which the environment may name for the hub.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('VARIATIONS_PORT', '8000') + '/healthz', timeout=4)"]
CMD ["python3", "-m", "app", "serve"]
