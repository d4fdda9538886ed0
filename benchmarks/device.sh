#!/usr/bin/env bash
# Every figure of docs/benchmarks.md on another machine, with a GPU or without, unattended.
#
#   bash benchmarks/device.sh wheels           # here: what a machine without internet lacks, in .whl/
#   bash benchmarks/device.sh stages OUT       # there: all stages, and their table beside the CPU's
#   bash benchmarks/device.sh pipeline OUT     # there: from nothing to a 100-track score
#   bash benchmarks/device.sh recipe OUT       # there: tools.reproduce; again, until it is finished
#
# All but `wheels` end by themselves within ten minutes, and leave their output in OUT whatever
# happens: `recipe` the agent, its metrics and its figures, too. Where .whl/ exists it is used; without it what requirements.txt names must be
# installed, for a GPU with `pip install "jax[cuda12]"`.
set -uo pipefail
cd "$(dirname "$0")/.."
task=${1:?"wheels, stages, pipeline or recipe"} out=${2:-runs/device} python=${PYTHON:-python3}
mkdir -p "$out"

wheels() {  # of Python 3.12 on x86-64; JAX, Equinox, Optax, Numba and PyTorch are expected there
    local platforms=() name
    for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${name}_x86_64")
    done
    "$python" -m pip download --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp "${platforms[@]}" --dest .whl "evosax>=0.3.2,<0.4" dotmap \
        "gymnasium>=1.4,<2" farama-notifications box2d==2.3.10 pygame-ce pebble \
        imageio-ffmpeg==0.6.0
}

install() {
    [ -d .whl ] || return 0
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target /tmp/site .whl/*.whl && export PYTHONPATH=/tmp/site
}

within_ten_minutes() {
    local left=$((580 - SECONDS))
    ((left > 20)) && timeout "$left" "$@"
}

stages() {
    nvidia-smi 2>/dev/null
    # A GPU has room for whole populations: dreams of full length, many generations in a call.
    local gpu=()
    "$python" -c "import jax, sys; sys.exit(jax.default_backend() == 'cpu')" && gpu=(
        --horizon 200 --at-once 20)
    within_ten_minutes "$python" -m benchmarks.dream "${gpu[@]}" --json "$out/benchmarks.json"
    for stage in vae rnn encoding agent environment; do
        within_ten_minutes "$python" -m benchmarks "$stage" --json "$out/benchmarks.json"
    done
    "$python" -m benchmarks.side_by_side docs/benchmarks.json "$out/benchmarks.json"
}

pipeline() {  # without rounds; says how long each stage took
    local folder
    folder=$(mktemp -d)
    within_ten_minutes "$python" -m tools.reproduce --rounds 0 --choice-tracks 0 \
        --data-dir "$folder/data" --run-dir "$folder/run"
    cp "$folder"/run/reproduce/{stages.jsonl,report.json} "$out" 2>/dev/null
    rm -r "$folder"
}

recipe() {  # the same call goes on where it was stopped
    local run=${RUN_DIR:-runs/recipe} data=${DATA_DIR:-data/recipe}
    within_ten_minutes "$python" -m tools.reproduce --preset "${PRESET:-laptop}" \
        --seed "${SEED:-0}" --data-dir "$data" --run-dir "$run"
    case $? in 0) echo "finished" ;; *) echo "not finished: the same command goes on" ;; esac
    cp -r "$run"/{*.eqx,*.jsonl,*.png,evaluation.json} "$run"/reproduce "$out" 2>/dev/null
    du -ch "$out"/* | tail -1
}

export PYTHONUNBUFFERED=1
case $task in
wheels) wheels ;;
stages | pipeline | recipe) install && "$task" 2>"$out/$task.err" | tee "$out/$task.txt" ;;
*) echo "wheels, stages, pipeline or recipe" >&2; exit 2 ;;
esac
