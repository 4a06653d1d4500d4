# The base is an argument, so that this file builds on any image with apt and Python 3.11 or 3.12.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701
FROM ${BASE}

# gcc and the headers build learn2learn, the reference implementation of the tests.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc git libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash perser \
    && install --directory --owner=perser /home/perser/artifact

USER perser
WORKDIR /home/perser/artifact
COPY --chown=perser . .
# Install the packages of requirements.lock and the reference implementation, as on any other machine.
RUN PIP_NO_CACHE_DIR=1 python3 tools/setup_env.py
# The default upstream, so that a container needs no network.
RUN PIP_NO_CACHE_DIR=1 .venv/bin/perser models get whisper-tiny.en

ENTRYPOINT ["./reproduce.sh"]
