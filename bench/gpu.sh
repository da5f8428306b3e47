#!/usr/bin/env bash
# What is to be run on a machine with an NVIDIA GPU: the tests that need one, then figures; for TensorRT's rows, its
# libraries must be there too.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup RUNTIME=gpu
failed=0
.venv/bin/python -m pytest -m gpu -ra || failed=1
.venv/bin/python bench/latency.py --provider cuda --threads 1 --out bench/results/latency_cuda.json
.venv/bin/python bench/gpu.py
exit "$failed"
