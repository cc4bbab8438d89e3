# The lab's CUDA image. Build it with `make build-gpu`, which finds the sources and passes them in.

# From a registry, or the same Debian bootstrapped from its packages where no registry answers.
ARG BASE=debian:trixie-slim

# The installer, in a stage of its own: neither uv nor Python's venv module stays in the image.
FROM ${BASE} AS tools
RUN --mount=type=bind,source=build-env.sh,target=/build-env.sh \
    --mount=type=bind,source=requirements,target=/requirements \
    --mount=type=secret,id=net --mount=type=secret,id=ca \
    . /build-env.sh \
    && apt-get update -q && apt-get install -qy --no-install-recommends ca-certificates python3-venv \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --quiet --require-hashes --requirement /requirements/uv.txt

FROM ${BASE}

# What a notebook and a terminal need from the system: certificates, git with ssh, an editor and a pager, ps and top,
# an init that reaps children. Without Perl's library: git wants it for mail and Subversion only, and it is 45 MB.
# No setuid file: nothing here may ever become root. The user is a default; the lab runs as whoever started it.
RUN --mount=type=bind,source=build-env.sh,target=/build-env.sh \
    --mount=type=secret,id=net --mount=type=secret,id=ca \
    . /build-env.sh \
    && apt-get update -q \
    && apt-get install -qy --no-install-recommends -o "DPkg::Options::=--path-exclude=/usr/share/perl/*" \
       -o "DPkg::Options::=--path-exclude=/usr/lib/*/perl/*" -o "DPkg::Options::=--path-exclude=/usr/lib/*/libperl.so*" \
       ca-certificates git less nano openssh-client procps python3 tini \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && useradd --uid 1000 --user-group --create-home --home-dir /home/lab --shell /bin/bash lab \
    && install -d -o lab -g lab /workspace \
    && rm -rf /tmp/apt /var/lib/apt/lists /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/log/*

# The server and its libraries, bytecode compiled because the root file system is read-only at run time.
# --system-site-packages lets pip fall back to the user's home when it cannot write here; commands are found there too.
ENV PATH=/opt/venv/bin:$PATH:/home/lab/.local/bin
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=build-env.sh,target=/build-env.sh \
    --mount=type=bind,source=requirements,target=/requirements \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=net --mount=type=secret,id=ca \
    . /build-env.sh && export UV_LINK_MODE=copy VIRTUAL_ENV=/opt/venv \
    && uv venv --quiet --python /usr/bin/python3 --system-site-packages /opt/venv \
    && uv pip install --no-deps --require-hashes --compile-bytecode --requirement /requirements/server.txt \
    && rm -rf /tmp/apt

# Torch in a layer of its own, above all that the variants share: `cuda13` or `cuda12` from PyPI, whose wheels run on a
# CPU too, or `cpu` from the CPU index, pinned by version only and looked for nowhere else. The constraints make pip
# refuse, rather than half-replace, what is installed here. What only clusters load (MPI, RDMA, UCX) goes.
ARG TORCH=cuda13
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=build-env.sh,target=/build-env.sh \
    --mount=type=bind,source=requirements,target=/requirements \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=net --mount=type=secret,id=ca \
    . /build-env.sh && export UV_LINK_MODE=copy VIRTUAL_ENV=/opt/venv \
    && case "$TORCH" in \
         cpu) unset UV_INDEX UV_EXTRA_INDEX_URL; \
              from="--default-index ${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" ;; \
         *) from=--require-hashes ;; \
       esac \
    && uv pip install --no-deps $from --compile-bytecode --requirement "/requirements/torch-$TORCH.txt" \
    && find /opt/venv \( -name "nvshmem_transport_*" -o -name "nvshmem_bootstrap_[ms]*" -o -name "nvshmem_bootstrap_pmix*" \
       -o -name "libcufile_rdma*" -o -path "*/torch/lib/libgfortran*" \) -delete \
    && uv pip check && uv pip freeze >/opt/venv/constraints.txt \
    && rm -rf /tmp/apt

# ↓ variant: CUDA (the only block in which the Dockerfiles differ)
# The GPUs' meters in JupyterLab, above torch: the CPU image from PyPI's wheels shares torch's layer.
RUN --mount=type=bind,from=tools,source=/opt/uv/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=build-env.sh,target=/build-env.sh \
    --mount=type=bind,source=requirements,target=/requirements \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=net --mount=type=secret,id=ca \
    . /build-env.sh && export UV_LINK_MODE=copy VIRTUAL_ENV=/opt/venv \
    && uv pip install --no-deps --require-hashes --compile-bytecode --requirement /requirements/gpu.txt \
    && uv pip check && uv pip freeze >/opt/venv/constraints.txt \
    && rm -rf /tmp/apt
# What the nvidia runtime is to bring in from the driver: CUDA, and nvidia-smi with NVML. The wheels hold the rest.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# ↑ variant

# Settings last: a changed one costs no download. UTF-8, the user's own home, caches that are allowed to be written;
# a configuration that fails ends the server: without it, it would start with a token of its own and log that.
ENV TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR=1 \
    LANG=C.UTF-8 SHELL=/bin/bash USER=lab LOGNAME=lab HOME=/home/lab JUPYTER_RUNTIME_DIR=/tmp/jupyter-runtime \
    PIP_CONSTRAINT=/opt/venv/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY --chmod=644 jupyter_server_config.py /opt/venv/etc/jupyter/
COPY --chmod=644 page_config.json /opt/venv/etc/jupyter/labconfig/
COPY --chmod=644 overrides.json /opt/venv/share/jupyter/lab/settings/
COPY --chmod=755 lab_server /opt/venv/lib/python3.13/site-packages/lab_server
COPY --chmod=644 healthcheck.py gpu_check.py /opt/venv/
LABEL org.opencontainers.image.title="pytorch-jupyter" org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.description="A private PyTorch + JupyterLab lab"
USER lab
WORKDIR /workspace
EXPOSE 8888
# /api tells only the version and needs no token. Eight GPUs take their driver several seconds.
HEALTHCHECK --interval=30s --timeout=25s --start-period=60s CMD ["python", "-IS", "/opt/venv/healthcheck.py"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["jupyter-lab"]
