# syntax=docker/dockerfile:1
# One image for every part: `cliptune serve`, `cliptune train-server`, and each executor alone.
#
#   docker build -t cliptune:0.2.0.dev0 .                        # for CPUs
#   docker build -t cliptune:0.2.0.dev0-gpu --target gpu .       # with CUDA
#   cliptune keys new ops --role admin --file keys && chmod 644 keys
#   docker run --rm --read-only --tmpfs /tmp -p 51000:51000 -p 51001:51001 -v cliptune:/data \
#       -v ./keys:/run/secrets/keys:ro cliptune:0.2.0.dev0
#
# It writes to /tmp and /data alone. Packages are those of docker/*.lock, by their hashes. A build
# that is to be the same for ever names its base by a digest, too, which `docker buildx imagetools
# inspect python:3.11-slim-bookworm` tells: --build-arg BASE_DIGEST=sha256:...
ARG BASE=python:3.11-slim-bookworm
ARG BASE_DIGEST=""

FROM ${BASE}${BASE_DIGEST:+@${BASE_DIGEST}} AS build
WORKDIR /src
COPY docker/requirements.lock docker/tools.lock docker/
# They are compiled once, here: each start of a container, whose files are read-only, would again.
# Packages stand in a layer below the program's own, which changes more often.
RUN python -m venv /opt/tools \
 && /opt/tools/bin/pip install --no-cache-dir --no-deps --require-hashes \
      --requirement docker/tools.lock \
 && /opt/tools/bin/uv venv /opt/cliptune
ENV PATH=/opt/tools/bin:$PATH

# As the lock has it: torch with CUDA.
FROM build AS build-gpu
RUN uv pip install --python /opt/cliptune --no-cache --no-deps --require-hashes \
      --requirement docker/requirements.lock
COPY . .
RUN uv pip install --python /opt/cliptune --no-cache --no-deps --compile-bytecode . \
 && cyclonedx-py environment --output-file /opt/cliptune/sbom.cdx.json /opt/cliptune/bin/python

# The same versions, but torch without CUDA, which PyPI doesn't have. TORCH is the options of uv that
# say where it is: PyTorch's own index, or with `--build-arg TORCH="--index https://..."` a mirror.
FROM build AS build-cpu
ARG TORCH="--torch-backend cpu"
# hadolint ignore=SC2086
RUN awk '/^[a-z]/ { cuda = /^(torch|torchvision|triton|cuda-|nvidia-)/ } !cuda' \
      docker/requirements.lock > docker/cpu.lock \
 && uv pip install --python /opt/cliptune --no-cache --no-deps --require-hashes \
      --requirement docker/cpu.lock \
 && grep --only-matching --extended-regexp '^torch(vision)?==[^ ]+' docker/requirements.lock \
      > docker/torch.txt \
 && uv pip install --python /opt/cliptune --no-cache --no-deps ${TORCH} \
      --requirement docker/torch.txt
COPY . .
RUN uv pip install --python /opt/cliptune --no-cache --no-deps --compile-bytecode . \
 && cyclonedx-py environment --output-file /opt/cliptune/sbom.cdx.json /opt/cliptune/bin/python

FROM ${BASE}${BASE_DIGEST:+@${BASE_DIGEST}} AS runtime
ARG BASE
ARG BASE_DIGEST
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="cliptune" \
      org.opencontainers.image.description="Fine-tune CLIP, and serve it as text-to-image search" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0.dev0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
RUN install --directory --owner 10001 --group 10001 --mode 2770 /data
ENV PATH=/opt/cliptune/bin:$PATH \
    HOME=/tmp \
    CLIPTUNE_HOME=/data \
    HF_HOME=/data/huggingface \
    JINA_OPTOUT_TELEMETRY=1 \
    JINA_HIDE_SURVEY=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 51000 51001 51002 52000 52001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD \
    ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('CLIPTUNE_HTTP_PORT', '51001') + '/healthz', timeout=4)"]
ENTRYPOINT ["cliptune"]
# It is reached from everywhere: without a file of keys it doesn't start.
CMD ["serve", "--host", "0.0.0.0", "--api-keys", "/run/secrets/keys"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/cliptune /opt/cliptune

FROM runtime AS cpu
COPY --from=build-cpu /opt/cliptune /opt/cliptune
