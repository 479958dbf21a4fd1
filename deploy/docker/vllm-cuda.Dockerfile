# `dpace serve` with vLLM on CUDA, for linux/amd64. Context: the root of the repository.
#   docker build -f deploy/docker/vllm-cuda.Dockerfile -t dpace-serve:cuda .
# By digest: --build-arg PYTHON_IMAGE=python:...@sha256:... (README.md beside this file).
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm


FROM ${PYTHON_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY deploy/locks/build.txt /locks/
RUN ["pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "/locks/build.txt"]
COPY pyproject.toml README.md LICENSE ./
COPY dpace_serve dpace_serve
COPY training/dpace_training training/dpace_training
COPY loadtest/dpace_loadtest loadtest/dpace_loadtest
RUN ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "/wheel", "."]


FROM ${PYTHON_IMAGE} AS environment
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ["python", "-m", "venv", "/opt/dpace"]
COPY deploy/locks/cuda.txt /locks/
RUN ["/opt/dpace/bin/pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "/locks/cuda.txt"]
COPY --from=wheel /wheel /wheel
RUN /opt/dpace/bin/pip install --no-deps --no-index --find-links /wheel dpace-serve \
 && /opt/dpace/bin/pip check \
 && /opt/dpace/bin/pip uninstall --yes pip


FROM ${PYTHON_IMAGE} AS serve
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dpace-serve, vLLM on CUDA" \
      org.opencontainers.image.description="OpenAI server with D-PACE drafters and acceptance by position" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# A compiler, because triton compiles a launcher for its kernels when it runs (triton/runtime/build.py
# of 3.7.1) and torch.compile parts of its own; both against the headers of Python, which the base
# image has. CUDA itself comes with the packages in /opt/dpace, the driver from the host.
# Debian keeps no old versions, so a pinned one could not be installed after its first update.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ libnuma1 \
 && rm -rf /var/lib/apt/lists/* \
 && python -m pip uninstall --yes --root-user-action ignore pip setuptools wheel \
 && install -d -m 1777 /var/cache/dpace /var/lib/dpace

COPY --from=environment /opt/dpace /opt/dpace
COPY deploy/docker/health.py /opt/dpace/health.py

# No NVIDIA_VISIBLE_DEVICES here: with it a container that asked for no GPU would see all of them.
# Everything that is written lies in /var/cache/dpace, /tmp and /dev/shm, so the root file system may
# be read-only. The user has no entry in /etc/passwd, so that any number does: USER stands in for it.
ENV PATH=/opt/dpace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USER=dpace \
    HOME=/var/cache/dpace \
    XDG_CACHE_HOME=/var/cache/dpace \
    XDG_CONFIG_HOME=/var/cache/dpace/config \
    HF_HOME=/var/cache/dpace/huggingface \
    HF_HUB_OFFLINE=1 \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/dpace/torchinductor \
    TRITON_CACHE_DIR=/var/cache/dpace/triton \
    NUMBA_CACHE_DIR=/var/cache/dpace/numba \
    CUDA_CACHE_PATH=/var/cache/dpace/cuda \
    FLASHINFER_WORKSPACE_BASE=/var/cache/dpace \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER 10001:10001
WORKDIR /var/lib/dpace
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python", "/opt/dpace/health.py", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["dpace"]
CMD ["serve", "--config", "/etc/dpace/serve.yaml"]
