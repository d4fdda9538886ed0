# The whole pipeline in a container: `make run`, or any other target, or any of the scripts.
#
#   docker build -t world-models .
#   mkdir -p data runs
#   docker run --rm -v "$PWD/data:/app/data" -v "$PWD/runs:/app/runs" world-models
#   docker run --rm -v ... world-models make report RUN_DIR=runs/quick DATA_DIR=data/quick
#   docker run --rm -v ... world-models python train_dream.py --help
#
# With CUDA (the wheels bring it; the host needs NVIDIA's driver and container toolkit):
#
#   docker build --build-arg JAX="jax[cuda12]" -t world-models-cuda .
#   docker run --rm --gpus all -v ... world-models-cuda
FROM python:3.12-slim

ARG JAX=jax

# What the Makefile calls its environment; scripts without make find it by the path.
ENV VENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SDL_VIDEODRIVER=dummy

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    # Files that the container writes to mounted folders belong to the first user of the host.
    && useradd --create-home --uid 1000 driver \
    && install --directory --owner driver /app /app/data /app/runs

WORKDIR /app

# Packages first: they stay in Docker's cache while the code changes.
COPY requirements.txt Makefile ./
RUN make /opt/venv/installed \
    && /opt/venv/bin/python -m pip install --no-cache-dir "${JAX}" \
    && rm -rf /root/.cache

# --chown: numba keeps its compiled drawing beside the code.
COPY --chown=driver . .
# requirements.txt came again, perhaps with a newer date: make shall not install anew.
RUN touch /opt/venv/installed

USER driver
# The drawing is compiled into the image; and a check that it works without a screen.
RUN python -c "import gymnasium; gymnasium.make('fast_car_racing:FastCarRacing-v3').reset(seed=0)"

CMD ["make", "run"]
