# `dpace loadtest` and locust, without an engine. Context: the root of the repository.
#   docker build -f deploy/docker/loadtest.Dockerfile -t dpace-loadtest .
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
COPY deploy/locks/loadtest.txt /locks/
RUN ["/opt/dpace/bin/pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "/locks/loadtest.txt"]
COPY --from=wheel /wheel /wheel
RUN /opt/dpace/bin/pip install --no-deps --no-index --find-links /wheel dpace-serve \
 && /opt/dpace/bin/pip check \
 && /opt/dpace/bin/pip uninstall --yes pip setuptools


FROM ${PYTHON_IMAGE} AS loadtest
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dpace-loadtest" \
      org.opencontainers.image.description="Open-loop load tests of OpenAI servers, with acceptance of the same requests" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

RUN python -m pip uninstall --yes --root-user-action ignore pip setuptools wheel \
 && install -d -m 1777 /results

COPY --from=environment /opt/dpace /opt/dpace
COPY loadtest/locustfile.py /opt/loadtest/locustfile.py
COPY loadtest/scenarios /opt/loadtest/scenarios

# Reports go to /results, everything else that is written to /tmp.
ENV PATH=/opt/dpace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USER=dpace \
    HOME=/tmp

USER 10001:10001
WORKDIR /results
STOPSIGNAL SIGTERM
# A run that ends is no service.
HEALTHCHECK NONE
ENTRYPOINT ["dpace"]
CMD ["loadtest", "--help"]
