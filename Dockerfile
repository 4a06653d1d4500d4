# The base is an argument, so that this file builds on any image with apt and Python 3.11 or 3.12. CUDA 13 on a GPU
# needs NVIDIA driver 580 or newer; without a GPU everything runs on the processor.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701
FROM ${BASE}

LABEL org.opencontainers.image.title="perser" \
      org.opencontainers.image.description="Meta-PerSER and Dynamic-SUPERB Phase-2 as one reproducible artifact" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"

# gcc and the headers build learn2learn, the reference implementation of the tests. git tells a run its commit.
# Their versions are free, as they are on any other machine.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc git libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --no-log-init --uid 10001 --user-group --shell /bin/bash perser \
    && install --directory --owner=10001 --group=10001 /home/perser/artifact

# By number, so that a host can see that it is not root.
USER 10001:10001
WORKDIR /home/perser/artifact
# Models of your own go to HF_HOME. Of the commands only `full` asks the hub for one.
ENV PERSER_CACHE=/home/perser/cache HF_HOME=/home/perser/huggingface HF_HUB_OFFLINE=1
COPY --chown=10001:10001 . .
# The packages of requirements.lock and the reference implementation, as on any other machine; then the default
# upstream, which is no volume: a folder mounted over it would hide it.
RUN mkdir data out "$HF_HOME" \
    && export PIP_NO_CACHE_DIR=1 \
    && python3 tools/setup_env.py \
    && .venv/bin/perser models get whisper-tiny.en

# Corpora, results with their features, and models: new volumes belong to the user above.
VOLUME ["/home/perser/artifact/data", "/home/perser/artifact/out", "/home/perser/huggingface"]
ENTRYPOINT ["./reproduce.sh"]
