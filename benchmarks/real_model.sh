#!/usr/bin/env bash
# A real model trained by every method on one budget and measured on IFEval, in slices; options: benchmarks/real_model.sh --help
# PYTHON=path names another interpreter than the checkout's .venv.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONPATH="$root:$root/src"
exec "${PYTHON:-$root/.venv/bin/python}" -m benchmarks.real_model "$@"
