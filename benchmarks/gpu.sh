#!/usr/bin/env bash
# Everything that issue 4 wants of a GPU, on a bare machine: no network, no installs but from wheels that are given, each command under ten minutes.
#
# Where there is a network:
#   benchmarks/gpu.sh wheels                 build/wheels: kdcore, its command, its plugins, and what such a machine lacks
#   benchmarks/gpu.sh pieces cifar100.npz    build/pieces/piece-1-of-N.npz and so on, each small enough to be carried
# On the machine, one or several, each of which leaves a JSON file in $OUT:
#   benchmarks/gpu.sh check        nothing in a step waits; pixels, precisions and resume (minutes)
#   benchmarks/gpu.sh step         host overhead and ratios
#   benchmarks/gpu.sh throughput   against torchdistill and timm, data included
#   benchmarks/gpu.sh graph        ResNet-20 at batch 128, eager and with --compile
#   benchmarks/gpu.sh roofline     ResNet-18 at batch 512, as a share of the roofline
#   benchmarks/gpu.sh startup      seconds and memory until something happens
#   benchmarks/gpu.sh put          keeps the pieces that came along with this call in $STORE
#   benchmarks/gpu.sh train        BYOT on CIFAR-100 by its recipe, from those pieces; the same command again goes on
# Then, where the JSON files are: python benchmarks/report.py FOLDER --part gpu
#
# PYTHON (python3) is a Python with torch and the rest of kdcore's needs; WHEELS (build/wheels) are laid over it without touching it. DEVICE=cpu and
# QUICK=1 try everything at small size. EXTRA: further arguments of the script that runs.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-build/wheels}
PIECES=${PIECES:-build/pieces}
STORE=${STORE:-/tmp/kdcore-gpu}
OUT=${OUT:-build/gpu}
DEVICE=${DEVICE:-cuda}
LIMIT=${LIMIT:-570}
EXTRA=${EXTRA:-}
QUICK=${QUICK:+--quick}

site() {  # the wheels over what the Python has, once for each set of them; nothing without wheels
  compgen -G "$WHEELS/*.whl" >/dev/null || return 0
  local mark folder
  mark=$(cd "$WHEELS" && ls -l -- *.whl | cksum | cut -d' ' -f1)
  folder="$STORE/site-$mark"
  if [ ! -f "$folder/.ready" ]; then
    rm -rf "$folder" && mkdir -p "$folder" || return 1
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --target "$folder" "$WHEELS"/*.whl || return 1
    touch "$folder/.ready"
  fi
  export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
}

bench() {  # NAME SCRIPT ARGUMENTS...: the script within the limit; what it says also goes to $OUT/NAME.log
  local name=$1; shift
  # shellcheck disable=SC2086
  timeout -k 10 "$LIMIT" "$PYTHON" "$@" --device "$DEVICE" --json "$OUT/$name.json" $QUICK $EXTRA 2>&1 | tee "$OUT/$name.log"
  local status=${PIPESTATUS[0]}
  if [ "$status" != 0 ]; then
    "$PYTHON" -c 'import json,sys,time; json.dump({"failed": sys.argv[1], "command": "benchmarks/gpu.sh " + sys.argv[2], "date": time.strftime("%Y-%m-%d")}, open(sys.argv[3], "w"))' \
      "it ended with $status: $(grep -v '^$' "$OUT/$name.log" | tail -1 | cut -c1-300)" "$name" "$OUT/$name.json"
    echo "gpu.sh: $name failed ($status)" >&2
    return 1
  fi
}

wheels() {
  rm -rf "$WHEELS" && mkdir -p "$WHEELS"
  "$PYTHON" -m pip wheel -q --no-deps --no-build-isolation --disable-pip-version-check -w "$WHEELS" . ./cli ./plugins/byot ./plugins/cifar || return 1
  local version=${FOR_PYTHON:-3.12} platforms="" name
  for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do platforms+=" --platform ${tag}_x86_64"; done
  for name in ${BRING:-pydantic pydantic_core typing_inspection tomli_w timm torchdistill}; do
    local exact
    exact=$("$PYTHON" -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$name") || return 1
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp $platforms --disable-pip-version-check -d "$WHEELS" "$name==$exact" || return 1
  done
  du -sh "$WHEELS"
}

pieces() {
  [ -n "${1:-}" ] || { echo "gpu.sh pieces: which set? give an .npz with train_images, train_labels, test_images, test_labels" >&2; return 1; }
  "$PYTHON" benchmarks/gpu_pieces.py split "$1" "$PIECES"
}

put() {
  mkdir -p "$STORE/pieces" && cp "$PIECES"/piece-*.npz "$STORE/pieces/" && ls -l "$STORE/pieces"
}

train() {
  local data="${DATA:-$STORE/cifar100.npz}"
  if [ ! -f "$data" ]; then
    if compgen -G "$PIECES/piece-*.npz" >/dev/null; then put >/dev/null || return 1; fi
    "$PYTHON" benchmarks/gpu_pieces.py join "$STORE/pieces" "$data" || return 1
  fi
  bench byot benchmarks/gpu_byot.py "$data" --run "${RUN:-$STORE/byot}" --limit "$((LIMIT - 60))" --compile || return 1
  for name in config.toml environment.json results.json metrics.jsonl; do
    if [ -f "${RUN:-$STORE/byot}/$name" ]; then cp "${RUN:-$STORE/byot}/$name" "$OUT/run-$name"; fi
  done
}

[ $# -gt 0 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 2; }
case $1 in
  wheels) wheels; exit ;;
  pieces) pieces "${2:-}"; exit ;;
esac
mkdir -p "$OUT" "$STORE"
OUT=$(cd "$OUT" && pwd)
command -v "$PYTHON" >/dev/null || { echo "gpu.sh: missing: $PYTHON; name one with PYTHON=/path/to/python" >&2; exit 1; }
if [ "$*" != put ]; then
  site || { echo "gpu.sh: the wheels in $WHEELS cannot be laid over $PYTHON" >&2; exit 1; }
  "$PYTHON" benchmarks/gpu_needs.py "$DEVICE" || exit 1
fi
failed=0
for command in "$@"; do
  echo "== $command"
  case $command in
    check) bench check benchmarks/gpu_check.py ;;
    step) bench step benchmarks/step.py --real ;;
    throughput) bench throughput benchmarks/throughput.py --compile --steps 40 --workers 8 --threads 4 ;;
    graph) bench graph benchmarks/gpu_rates.py graph ;;
    roofline) bench roofline benchmarks/gpu_rates.py roofline ;;
    startup) bench startup benchmarks/startup.py ;;
    put) put ;;
    train) train ;;
    *) echo "gpu.sh: there is no command '$command'; benchmarks/gpu.sh alone lists them" >&2; false ;;
  esac || failed=1
done
exit $failed
