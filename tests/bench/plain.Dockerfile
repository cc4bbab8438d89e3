# The baseline: what people write themselves. The same base and versions, a plain pip install, nothing else.
ARG BASE
FROM ${BASE}
ARG PACKAGES
ARG TORCH
RUN --mount=type=bind,source=build-env.sh,target=/build-env.sh --mount=type=secret,id=net --mount=type=secret,id=ca \
    . /build-env.sh && export PIP_INDEX_URL="${UV_DEFAULT_INDEX:-https://pypi.org/simple}" \
    && if [ "$TORCH" = cpu ]; then export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"; fi \
    && apt-get update -q && apt-get install -qy --no-install-recommends ca-certificates python3 python3-venv \
    && python3 -m venv /opt/plain && /opt/plain/bin/pip install --no-cache-dir $PACKAGES \
    && rm -rf /tmp/apt /var/lib/apt/lists
ENV PATH=/opt/plain/bin:$PATH
EXPOSE 8888
