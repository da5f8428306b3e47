# Goodpart's images; docs/containers.md says how they are built and run.
#
#   wheel        only for building: our code as one wheel
#   base ── service ── service-cpu
#     │        └────── service-gpu
#     └── training
#
# What seldom changes comes first: a change of code reaches the last RUN of an image and nothing before it. What an image
# installs is listed to the version in requirements/, by `make lock`.

# The Python that the tests run on and that requirements/ was written with.
ARG PYTHON_IMAGE=python:3.11.15-slim-trixie

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
COPY requirements/constraints.txt /requirements/
RUN python -m pip install --no-cache-dir --constraint /requirements/constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model model
COPY training training
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="Goodpart" \
      org.opencontainers.image.description="Learns what a good part looks like, and judges every part by it." \
      org.opencontainers.image.licenses="Apache-2.0"
# HOME: what a library wants to keep goes where a read-only container has a tmpfs.
# USER: the audit's name for who activated a version, also where --user gives a number that /etc/passwd lacks.
ENV GOODPART_STORE=/store \
    GOODPART_LOCAL=/local \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    USER=goodpart
# A new named volume takes over the owner of the folder that it covers.
RUN groupadd --gid 10001 goodpart \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin goodpart \
    && install --directory --owner=10001 --group=10001 /store /state /local
# Neutral, and a place for a folder of images: `inspect part.png` looks here.
WORKDIR /work
ENTRYPOINT ["goodpart"]

FROM base AS service
ENV GOODPART_PORT=8000
EXPOSE 8000
# Whether it runs, not whether it is ready: engines restart or replace what is unhealthy, and that gives an empty store no
# product. Who decides where requests go asks /readyz.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["goodpart", "health"]
# An argument, not GOODPART_HOST: `inspect` reads the settings too, and need not be allowed to listen anywhere. There
# is no GOODPART_AUTH=off here: whoever runs the image says who can reach it.
CMD ["serve", "--host", "0.0.0.0"]

FROM service AS service-cpu
COPY requirements/service-cpu.txt /requirements/
RUN python -m pip install --no-cache-dir --requirement /requirements/service-cpu.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps /wheels/*.whl && python -m pip check
USER 10001:10001

FROM service AS service-gpu
# Asked for CUDA and got none is an error, never a slow service.
ENV GOODPART_PROVIDER=cuda \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY requirements/service-gpu.txt /requirements/
# ONNX Runtime names CUDA's libraries without a path; ldconfig tells the loader where their wheels put them.
RUN python -m pip install --no-cache-dir --requirement /requirements/service-gpu.txt \
    && find "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia" \
    -maxdepth 2 -type d -name lib > /etc/ld.so.conf.d/goodpart-cuda.conf \
    && ldconfig
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps /wheels/*.whl && python -m pip check
USER 10001:10001

FROM base AS training
# First, as in the Makefile: with it in place nothing pulls another build of it.
ARG TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
# TORCH is several words on purpose, the version among them.
# hadolint ignore=DL3013,SC2086
RUN python -m pip install --no-cache-dir ${TORCH}
COPY requirements/training.txt /requirements/
RUN python -m pip install --no-cache-dir --requirement /requirements/training.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps /wheels/*.whl && python -m pip check
USER 10001:10001
CMD ["train", "--help"]
