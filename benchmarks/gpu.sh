#!/usr/bin/env bash
# Everything that is to be known of this program on a GPU, in one call of under nine minutes: JSON in a folder.
#
#   benchmarks/gpu.sh OUTPUT-FOLDER [DEVICE...]
#
# DEVICE is cuda, wgpu or one of them with a number (default: those that `doctor` finds). NOLA_TRAIN is the program (default: nola-train);
# NOLA_TRAIN_FUSION and NOLA_TRAIN_VULKAN, if they are set, are builds with the features `fusion` and `vulkan`, and are measured beside it.
# PYTHON is a Python with torch, transformers, peft and timm (default: python3; without torch its half is left out).
# SMALL=yes takes models of two blocks and a few steps, to try the script itself; SECONDS_LEFT is its time (default: 520).
# A part that fails or takes too long is told in summary.tsv, and the others go on.
set -uo pipefail
out=${1:?usage: benchmarks/gpu.sh OUTPUT-FOLDER [DEVICE...]}
shift
program=${NOLA_TRAIN:-nola-train}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
end=$((SECONDS + ${SECONDS_LEFT:-520}))
mkdir -p "$out"
printf 'part\tseconds\tstatus\n' >"$out/summary.tsv"

# part NAME SECONDS COMMAND...: the command's output goes to NAME.json and NAME.log
part() {
    local name=$1 most=$2 begun=$SECONDS status
    shift 2
    local left=$((end - SECONDS))
    [ "$left" -lt "$most" ] && most=$left
    if [ "$most" -lt 5 ]; then
        printf '%s\t0\tno time left\n' "$name" >>"$out/summary.tsv"
        return
    fi
    timeout -k 5 "$most" "$@" >"$out/$name.json" 2>"$out/$name.log"
    status=$?
    printf '%s\t%s\t%s\n' "$name" "$((SECONDS - begun))" "$status" | tee -a "$out/summary.tsv"
}

if [ "${SMALL:-no}" = yes ]; then
    models=tiny-gpt2,tiny-llama,tiny-vit large=tiny-llama count=2 many=40
    text=(--batch 2 --seq 32) large_text=(--batch 1 --seq 32) torch_models=
else
    models=gpt2,llama-160m,vit-b16 large=llama-1b count=10 many=1000
    text=() large_text=(--batch 4 --seq 512) torch_models=gpt2,llama-160m,vit-b16
fi

nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || true
part doctor 90 "$program" doctor --json
if [ $# -eq 0 ]; then
    mapfile -t devices < <("$python" - "$out/doctor.json" <<'PYTHON'
import json, sys
try:
    found = json.load(open(sys.argv[1]))
    print("\n".join(device["device"] for device in found["devices"] if device["device"] != "cpu"))
except (OSError, ValueError, KeyError) as error:
    sys.exit(f"no devices in doctor.json: {error}")
PYTHON
    )
else
    devices=("$@")
fi
if [ -z "${devices[*]:-}" ]; then
    echo "gpu.sh: doctor found no GPU; name one, such as wgpu" >&2
    exit 1
fi

# steps NAME SECONDS PROGRAM DEVICE MODELS METHODS DTYPE OPTIONS...
steps() {
    local name=$1 most=$2 program=$3 device=$4 models=$5 methods=$6 dtype=$7
    shift 7
    part "$name" "$most" "$program" --device "$device" bench steps --json --models "$models" --methods "$methods" \
        --dtype "$dtype" --steps "$count" --rounds 1 "$@"
}

# First, so that time does not run out for it: the ratios are what matters.
if [ -n "$torch_models" ] && "$python" -c 'import torch, transformers, peft; assert torch.cuda.is_available()' 2>/dev/null; then
    part torch-bf16 90 "$python" "$here/bench_torch.py" --device cuda --dtype bf16 --param-dtype bf16 --models "$torch_models" \
        --methods frozen,lora,nola --steps "$count" --rounds 1
    part torch-bf16-compiled 120 "$python" "$here/bench_torch.py" --device cuda --dtype bf16 --param-dtype bf16 --compile \
        --models "$torch_models" --methods lora --steps "$count" --rounds 1
fi
for device in "${devices[@]}"; do
    [ -z "$device" ] && continue
    short=${device/:/-}
    half=$([ "${device#cuda}" != "$device" ] && echo bf16 || echo f16)
    steps "steps-f32-$short" 60 "$program" "$device" "$models" frozen,lora,nola f32 "${text[@]}"
    steps "steps-$half-$short" 60 "$program" "$device" "$models" frozen,lora,nola "$half" "${text[@]}"
    steps "steps-nf4-$short" 60 "$program" "$device" "$models" lora,nola "$half" --quantize nf4 "${text[@]}"
    for build in FUSION VULKAN; do
        other=NOLA_TRAIN_$build
        if [ -n "${!other:-}" ]; then
            steps "steps-$half-${build,,}-$short" 60 "${!other}" "$device" "$models" lora,nola "$half" "${text[@]}"
        fi
    done
    steps "large-$half-$short" 90 "$program" "$device" "$large" lora,nola "$half" "${large_text[@]}"
    part "kernels-$short" 60 "$program" --device "$device" bench kernels --json
    part "memory-$short" 60 "$program" --device "$device" bench memory --steps "$many" --json
done

# Whether anything failed that was tried.
! cut -f 3 "$out/summary.tsv" | tail -n +2 | grep -qvxE "0|no time left"
