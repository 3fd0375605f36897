#!/usr/bin/env bash
# Makes the environments of the peers that compare.py times groundling against: bench/environments/NAME, one each.
#
#   bench/environments.sh                  all of them
#   bench/environments.sh trl ms-swift     these
#
# PYTHON is the interpreter that groundling runs with, .venv/bin/python by default. The peers get its version of torch:
# installed once, with torchvision, in bench/environments/torch, which the others see through a .pth file.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
FOLDER=$PWD/bench/environments

version_of() { "$PYTHON" -c "from importlib.metadata import version; print(version('$1').split('+')[0])"; }

make_environment() { # NAME PACKAGE...
    local environment=$FOLDER/$1
    shift
    "$PYTHON" -m venv "$environment"
    if [[ $environment != */torch ]]; then
        echo "$FOLDER"/torch/lib/python*/site-packages > "$(echo "$environment"/lib/python*/site-packages)/torch.pth"
    fi
    "$environment/bin/python" -m pip install --quiet "$@"
    touch "$environment/installed"
}

(($#)) || set -- plain trl ms-swift llamafactory
[[ -e $FOLDER/torch/installed ]] || make_environment torch "torch==$(version_of torch)" torchvision
for peer in "$@"; do
    case $peer in
        plain) make_environment plain "transformers==$(version_of transformers)" "accelerate==$(version_of accelerate)" ;;
        trl) make_environment trl trl "transformers==$(version_of transformers)" ;;
        ms-swift) make_environment ms-swift ms-swift qwen-vl-utils ;;
        llamafactory) make_environment llamafactory llamafactory ;;
        *) echo "no peer $peer; there are plain, trl, ms-swift, llamafactory" >&2 && exit 2 ;;
    esac
done
