# An image with the command `jstc`, for CPUs; it works in /work, as a user without rights:
#
#   docker build -t jstc .
#   docker run --rm --ipc=host -v "$PWD:/work" jstc run quickstart
#
# With an NVIDIA GPU: --build-arg DEVICE=gpu, and --gpus all to run it. The packages bring CUDA along, so that the
# base is the same; TensorRT and a compiler (finetune.compile) are not in it.
FROM python:3.13-slim

ARG DEVICE=cpu

WORKDIR /opt/jstc
COPY pyproject.toml README.md LICENSE requirements-cpu.txt ./
COPY jstc jstc
COPY recipes recipes
RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-cache-dir uv && \
        uv pip install --system --no-cache --torch-backend cpu --override requirements-cpu.txt .; \
    else \
        pip install --no-cache-dir .; \
    fi

# HOME: for what libraries keep, also where `docker run --user` names somebody else
ENV HOME=/tmp
RUN useradd --uid 1000 jstc && mkdir /work && chown jstc /work
USER jstc
WORKDIR /work
VOLUME /work
ENTRYPOINT ["jstc"]
CMD ["--help"]
