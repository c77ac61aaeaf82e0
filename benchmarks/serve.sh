#!/usr/bin/env bash
# Measures how many adapters one base answers for at once, and single requests beside transformers: JSON lines in a folder.
#
#   benchmarks/serve.sh OUTPUT-FOLDER [DEVICE]
#
# NOLA_TRAIN is the program (default: nola-train), PYTHON a Python with torch and transformers (default: python3; without torch its half is left out).
# REQUESTS is how many are timed in a case with the shipped model (default 256; a quarter of them with GPT-2 small).
set -euo pipefail
out=${1:?usage: benchmarks/serve.sh OUTPUT-FOLDER [DEVICE]}
device=${2:-cpu}
requests=${REQUESTS:-256}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
bench() { "${NOLA_TRAIN:-nola-train}" --device "$device" bench serve --json "$@"; }

bench --adapters 1,10,100,1000,10000 --methods nola,lora --requests "$requests" >"$out/serve.jsonl"
bench --adapters 1,1000 --methods lora --lora-rank 16 --traffic uniform --requests "$requests" >>"$out/serve.jsonl"
bench --adapters 100,1000 --methods lora --as bundle --traffic uniform --requests "$requests" >>"$out/serve.jsonl"
bench --model gpt2 --adapters 1,1000 --methods nola,lora --traffic uniform --requests $((requests / 4)) --running 16 --new-tokens 16 \
    >"$out/serve-gpt2.jsonl"
bench --model gpt2 --adapters 1 --methods nola --traffic uniform --requests 4 --running 1 --new-tokens 64 >"$out/single.jsonl"
if "${PYTHON:-python3}" -c 'import torch, transformers' 2>/dev/null; then
    "${PYTHON:-python3}" "$here/generate_torch.py" --threads "$(nproc)" >>"$out/single.jsonl"
fi
