# The whole pipeline in a container: `make run`, any other target, or any of the scripts.
#
#   docker build -t world-models .
#   mkdir -p data runs
#   docker run --rm -v "$PWD/data:/app/data" -v "$PWD/runs:/app/runs" world-models
#   docker run --rm -v ... world-models make report RUN_DIR=runs/quick DATA_DIR=data/quick
#   docker run --rm -v ... world-models python train_dream.py --help
#
# With CUDA, which comes with the wheels; the host needs NVIDIA's driver and container toolkit:
#
#   docker build --build-arg JAX="jax[cuda12]" -t world-models-cuda .
#   docker run --rm --gpus all -v ... world-models-cuda
#
# On ARM64 the build also installs g++ and SWIG and compiles Box2D, which has no wheel there. The
# image contains an ffmpeg under the GPL, version 3, and others' binaries; docs/architecture.md
# ("Licences") lists them.
FROM python:3.11-slim

ARG JAX=jax

# VENV is the Makefile's; PATH lets `python SCRIPT.py` find the same environment.
ENV VENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SDL_VIDEODRIVER=dummy

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
        $(test "$(dpkg --print-architecture)" = amd64 || echo g++ swig) \
    && rm -rf /var/lib/apt/lists/* \
    # User 1000, usually the host's first: files written to mounted folders belong to that user.
    && useradd --create-home --uid 1000 driver \
    && install --directory --owner driver /app /app/data /app/runs

WORKDIR /app

# Packages first: Docker keeps this layer while the code changes.
COPY requirements.txt Makefile ./
COPY fast_car_racing/installation.py fast_car_racing/
RUN make /opt/venv/installed \
    && /opt/venv/bin/python -m pip install --no-cache-dir "${JAX}" \
    # evosax requires flax, and flax these: 94 MB that only its checkpoints would use.
    && /opt/venv/bin/python -m pip uninstall --yes tensorstore orbax-checkpoint uvloop \
    && rm -rf /root/.cache

# --chown: numba stores the compiled drawing beside the code.
COPY --chown=driver . .
# COPY may have given requirements.txt a newer date; make must not install again.
RUN touch /opt/venv/installed

USER driver
# Compile the drawing into the image, and check that it works without a screen.
RUN python -c "import gymnasium; gymnasium.make('fast_car_racing:FastCarRacing-v3').reset(seed=0)"

CMD ["make", "run"]
