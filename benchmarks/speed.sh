#!/usr/bin/env bash
# Measures the speed of this program on one device and, where Python has PyTorch, of PyTorch beside it.
#
#   benchmarks/speed.sh OUTPUT-FOLDER [DEVICE]
#
# DEVICE is cpu (default), wgpu or cuda. NOLA_TRAIN is the program (default: the release build, which is made first),
# PYTHON a Python with torch, transformers, peft and timm (default: python3; without torch its half is left out).
# CASES is how many measured steps a case has in each of two rounds (default 5); DTYPE=bf16 holds the weights in bf16,
# with autocast in PyTorch; LARGE=yes adds cases that take minutes a step.
set -euo pipefail
out=${1:?usage: benchmarks/speed.sh OUTPUT-FOLDER [DEVICE]}
device=${2:-cpu}
steps=${CASES:-5}
dtype=${DTYPE:-f32}
torch_dtype=$([ "$dtype" = f32 ] && echo fp32 || echo "$dtype")
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
if [ -z "${NOLA_TRAIN:-}" ]; then
    (cd "$here/.." && cargo build --release -p nola-train)
    NOLA_TRAIN=$here/../target/release/nola-train
fi
has_torch=$("$python" -c 'import torch, transformers, peft' 2>/dev/null && echo yes || echo no)
: >"$out/nola.jsonl"
: >"$out/torch.jsonl"

# model, methods here, methods there, batch, tokens
cases() {
    cat <<'CASES'
gpt2 frozen,lora,nola,nola-shared,nola-sign,nola-shared-sign frozen,lora,nola,nola-shared 4 256
vit-b16 frozen,lora,nola,nola-shared,nola-sign,nola-shared-sign frozen,lora,nola,nola-shared 8 197
llama-160m frozen,lora,nola,nola-shared,nola-sign,nola-shared-sign frozen,lora,nola,nola-shared 2 256
gpt2-medium lora,nola,nola-shared,nola-sign lora,nola-shared 2 512
CASES
    if [ "${LARGE:-no}" = yes ]; then
        cat <<'CASES'
gpt2-medium lora,nola lora 8 512
vit-b16 lora,nola lora 64 197
llama-7b lora,nola,nola-sign lora 1 512
CASES
    fi
}

cases | while read -r model ours theirs batch tokens; do
    # Models that read images have their number of tokens already.
    length=$([ "${model#vit}" != "$model" ] || echo "--seq $tokens")
    # Both sides of a case run one after the other, so that a slow minute of the machine hits both.
    # shellcheck disable=SC2086
    "$NOLA_TRAIN" --device "$device" bench steps --json --models "$model" --methods "$ours" --batch "$batch" $length \
        --dtype "$dtype" --steps "$steps" --rounds 2 >>"$out/nola.jsonl"
    if [ "$has_torch" = yes ]; then
        torch_device=$([ "$device" = cpu ] && echo cpu || echo cuda)
        # shellcheck disable=SC2086
        "$python" "$here/bench_torch.py" --device "$torch_device" --models "$model" --methods "$theirs" \
            --batch "$batch" $length --dtype "$torch_dtype" --steps "$steps" --rounds 2 --threads "$(nproc)" >>"$out/torch.jsonl"
    fi
done

"$NOLA_TRAIN" --device "$device" bench steps --json --models gpt2 --methods lora,nola --accumulate 8 \
    --steps 3 --rounds 1 --max-seconds 120 >"$out/accumulate.jsonl"
"$NOLA_TRAIN" --device "$device" bench steps --json --models gpt2 --methods lora,nola --gradient-checkpointing \
    --steps 3 --rounds 1 >"$out/checkpointing.jsonl"
"$NOLA_TRAIN" --device "$device" bench kernels --json >"$out/kernels.jsonl"
"$NOLA_TRAIN" --device "$device" bench start --json >"$out/start.jsonl"
"$NOLA_TRAIN" --device "$device" bench adapters --json >"$out/adapters.jsonl"
if [ "$has_torch" = yes ]; then
    "$python" "$here/bench_torch.py" --device "$([ "$device" = cpu ] && echo cpu || echo cuda)" --probe \
        --threads "$(nproc)" >"$out/torch-probe.jsonl"
    "$NOLA_TRAIN" bench table "$out/nola.jsonl" "$out/torch.jsonl" | tee "$out/table.md"
fi
