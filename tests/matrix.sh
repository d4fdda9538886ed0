#!/usr/bin/env bash
# Run the tests on every Python of this machine, 3.10 to 3.13, with the lowest and the latest
# dependencies, and write the results to docs/matrix.md.
#
#     tests/matrix.sh --numprocesses 2 --dist loadfile    # everything: more than an hour
#     PYTHONS="3.10 3.13" LEVELS=latest tests/matrix.sh tests/test_files.py -k lock
#
# Arguments go to pytest. The virtual environments and the results lie in $MATRIX_DIR, outside of the
# checkout. Rerun the same command at the same commit to resume: what is done is not run again.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${MATRIX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/world-models-matrix}
table=docs/matrix.md
mkdir -p "$folder"

python_of() {  # the first python3.X that runs: of pyenv, whose shims may not, or on the PATH
    local program
    for program in $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/"python$1" 2>/dev/null) \
        "$(command -v "python$1")"; do
        "$program" -c "" 2>/dev/null && echo "$program" && return
    done
}

install() {  # venv, level; uv's pip knows the lowest versions, and takes wheels alone
    "$1/bin/python" -m pip install --quiet uv &&
        "$1/bin/python" -m uv pip install --quiet --python "$1/bin/python" --only-binary :all: \
            --resolution "$([ "$2" = lowest ] && echo lowest-direct || echo highest)" \
            --upgrade --requirement requirements/test.txt
}

results_of() {  # the counts in pytest's XML as three cells
    python3 - "$1" <<'PYTHON'
import sys, xml.etree.ElementTree as ElementTree
suite = next(ElementTree.parse(sys.argv[1]).iter("testsuite")).attrib
failed = int(suite["failures"]) + int(suite["errors"])
skipped = int(suite["skipped"])
print(int(suite["tests"]) - failed - skipped, failed, skipped, sep=" | ")
PYTHON
}

commit=$(git rev-parse --short HEAD)
results=$folder/results-$commit-$(echo "$*" | cksum | cut -d " " -f 1)
mkdir -p "$results"
rows=() status=0
for version in ${PYTHONS:-3.10 3.11 3.12 3.13}; do
    python=$(python_of "$version")
    [ -n "$python" ] || { echo "Python $version is not on this machine"; continue; }
    for level in ${LEVELS:-lowest latest}; do
        venv=$folder/$version-$level xml=$results/$version-$level.xml
        echo "Python $version, $level dependencies"
        [ -d "$venv" ] || "$python" -m venv "$venv"
        row="| $("$python" -c 'import platform; print(platform.python_version())') | $level"
        if install "$venv" "$level"; then
            jax=$("$venv/bin/python" -c 'import jax; print(jax.__version__)')
            [ -s "$xml" ] || "$venv/bin/python" -m pytest --quiet --junitxml "$xml" "$@"
            counts=$(results_of "$xml") && [[ $counts == *"| 0 |"* ]] || status=1
            rows+=("$row | $jax | $counts | $(date -r "$xml" +%F) |")
        else
            status=1
            rows+=("$row | could not be installed | | | | $(date -I) |")
        fi
    done
done

{
    echo "# Python and JAX versions"
    echo
    echo "Made by \`tests/matrix.sh${*:+ $*}\` at commit $commit on $(uname -sm)."
    echo
    echo "| Python | dependencies | JAX | passed | failed | skipped | date |"
    echo "|---|---|---|---|---|---|---|"
    printf '%s\n' "${rows[@]}"
} > "$table"
cat "$table"
exit $status
