# syntax=docker/dockerfile:1
# One image for every part: `cliptune serve`, `cliptune train-server`, and each executor alone.
#
#   docker build -t cliptune .
#   docker run --rm -p 51000:51000 -p 51001:51001 -v cliptune:/data cliptune \
#       serve --artifact builtin --host 0.0.0.0
FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY cliptune cliptune
COPY executors executors
COPY flows flows
# The lock's versions without its test tools.
RUN uv venv /opt/cliptune \
 && uv pip install --python /opt/cliptune --no-cache --constraint requirements.lock ".[train,serve,s3,milvus]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 cliptune && mkdir /data && chown cliptune /data
COPY --from=build /opt/cliptune /opt/cliptune
ENV PATH=/opt/cliptune/bin:$PATH \
    CLIPTUNE_HOME=/data \
    JINA_OPTOUT_TELEMETRY=1 \
    JINA_HIDE_SURVEY=1 \
    PYTHONUNBUFFERED=1
USER cliptune
WORKDIR /data
VOLUME /data
EXPOSE 51000 51001 52000 52001
ENTRYPOINT ["cliptune"]
CMD ["serve", "--host", "0.0.0.0"]
