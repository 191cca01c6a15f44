#!/bin/sh
# Resolve pyproject.toml's dependencies in a throw-away environment and write requirements.lock.
# torch is pinned first, so that pip keeps the build that is to be had where this runs.
set -eu
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet torch==2.13.0 mlflow==3.17.2
$pip install --quiet '.[dev]'
{
  echo '# Made by `make lock`: what pip resolved for Python 3.11 on Linux. Edit pyproject.toml instead.'
  $pip list --format freeze --exclude lossbook --exclude pip --exclude setuptools |
    sed -E \
      -e 's/^(torch==[0-9.]+)\+.*/\1/' \
      -e "s/^(tensorflow)[_-]cpu==(.*)/\1-cpu==\2; sys_platform == 'linux' and platform_machine == 'x86_64'\n\1==\2; sys_platform != 'linux' or platform_machine != 'x86_64'/"
} > requirements.lock
