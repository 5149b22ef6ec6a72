#!/bin/sh
# Installs CUDA's headers: infra/cuda/headers.sh DIR, then they lie in DIR/include
#
# Does nothing where they are there. They are a Python package of 1 MB; a CUDA toolkit isn't needed.
set -eu

dir=${1:?usage: headers.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
digest=$(cksum <"$here/requirements.txt")
[ "$(cat "$dir/precept-requirements" 2>/dev/null)" != "$digest" ] || exit 0

rm -rf "$dir"
mkdir -p "$dir"
python3 -m venv "$dir/venv"
"$dir/venv/bin/python" -m pip install --quiet --no-deps --no-compile --only-binary :all: --require-hashes \
	--target "$dir/packages" -r "$here/requirements.txt"
mv "$dir/packages/nvidia/cuda_runtime/include" "$dir/include"
rm -rf "$dir/venv" "$dir/packages"
echo "$digest" >"$dir/precept-requirements"
