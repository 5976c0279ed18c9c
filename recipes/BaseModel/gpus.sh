#!/usr/bin/env bash
# All stages on a machine of two GPUs or more, by the clock, from pretrained/diffasr-base or
# START=FOLDER:
#   ./gpus.sh DATA [OUTPUT]
# DATA holds human, kokoro, espeak, text.csv and tokenizer.json. Seconds of each stage, and steps of
# the last, e.g.
#   TEXT=600 FOLDS=480 ENCODER=480 HEARD=900 JOINT=100 ./gpus.sh data
# Each fold has a GPU, and beside them the encoder another and text the last; where there are too
# few for that, text comes first. ENCODER=0 keeps the encoder and its GPU, TEXT=0 leaves text out.
# Then all hear speech, with what the compiler made for text.
# GPUS=3 leaves the others to something else.
# Text needs no speech: READY=FILE lets all other stages wait for that file, while speech is still
# being made. UNTIL=TIME, in seconds since 1970, is when speech ends, instead
# of HEARD.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
data=$(realpath "${1:?usage: gpus.sh DATA [OUTPUT]}")
output=$(realpath -m "${2:-results}")
pretrain=$output/pretrain
text=${TEXT:-600} folds=${FOLDS:-480} encoder=${ENCODER:-480} heard=${HEARD:-900} joint=${JOINT:-100}
start=$(realpath "${START:-../../pretrained/diffasr-base}")
common=(--data_folder "$data" --embeddings "$start" --fixed_embeddings True --compile)
gpus=${GPUS:-$(nvidia-smi -L | wc -l)}
if [ "$gpus" -lt 2 ]; then
    echo "gpus.sh: needs two GPUs; README.md has the stages one by one" >&2
    exit 1
fi
mkdir -p "$pretrain"
# The first batches are of many sizes.
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}

log() { echo "$(date +%T) $*" | tee -a "$output/stages.log"; }
on() { local gpu=$1; shift; CUDA_VISIBLE_DEVICES=$gpu python3 "$@"; }
# Each process sees one GPU, its first: so the compiler's cache, which tells GPUs apart, serves all.
on_all() {
    local gpu processes=()
    for gpu in $(seq 0 $((gpus - 1))); do
        MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 WORLD_SIZE=$gpus RANK=$gpu LOCAL_RANK=0 \
            on "$gpu" "$@" &
        processes+=($!)
    done
    wait_for "${processes[@]}"
}
# If one fails, the others would wait for it for ever. All that run are given.
wait_for() {
    local process
    for process in "$@"; do
        wait -n || { kill "$@" 2> /dev/null || true; return 1; }
    done
}
last_line() { tail -qn 1 "$@" 2> /dev/null | tail -n 1; }

denoise=(pretrain_denoiser.py pretrain.yaml "${common[@]}" --output_folder "$pretrain" --log_every 50)
read_text=("${denoise[@]}" --continue_from "$start" --denoiser "{seconds: $text}")
stages=()
if [ "$text" = 0 ]; then
    [ -f "$pretrain/base.safetensors" ] || cp "$start/base.safetensors" "$pretrain/"
elif [ "$gpus" -ge $((encoder > 0 ? 4 : 3)) ]; then
    log "text on one GPU"
    on $((gpus - 1)) "${read_text[@]}" --device cuda:0 > "$pretrain/text.out" 2>&1 &
    stages+=($!)
else
    log "text on $gpus GPUs"
    on_all "${read_text[@]}" > "$pretrain/text.out" 2>&1
fi
if [ -n "${READY:-}" ]; then
    until [ -f "$READY" ]; do sleep 1; done
fi

log "folds"
for fold in 0 1; do
    mkdir -p "$pretrain/fold$fold"
    on "$fold" pretrain_encoder.py pretrain.yaml "${common[@]}" --device cuda:0 --fold "$fold" \
        --output_folder "$pretrain/fold$fold" --whisper_source "${WHISPER:-openai/whisper-base}" \
        --encoder "{seconds: $folds}" > "$pretrain/fold$fold/encoder.out" 2>&1 &
    stages+=($!)
done
if [ "$gpus" -ge 3 ] && [ "$encoder" != 0 ]; then
    on 2 pretrain_encoder.py pretrain.yaml "${common[@]}" --device cuda:0 --continue_from "$start" \
        --output_folder "$pretrain" --encoder "{seconds: $encoder}" > "$pretrain/encoder.out" 2>&1 &
    stages+=($!)
else
    cp "$start/whisper.safetensors" "$start/projector.safetensors" "$pretrain/"
fi
wait_for "${stages[@]}"
log "text: $(last_line "$pretrain/denoiser.log")"
log "folds: $(last_line "$pretrain"/fold?/encoder.log)"
log "encoder: $(last_line "$pretrain/encoder.log")"

log "speech on $gpus GPUs"
cp "$pretrain/base.safetensors" "$pretrain/base_text.safetensors"
[ -z "${UNTIL:-}" ] || heard=$((UNTIL - $(date +%s)))
on_all "${denoise[@]}" --heard True --denoiser "{seconds: $heard}" > "$pretrain/heard.out" 2>&1
log "heard: $(last_line "$pretrain/denoiser.log")"

on 0 train.py train.yaml --data_folder "$data" --pretrain_folder "$pretrain" --device cuda:0 \
    --output_folder "$output/train" --number_of_epochs 1 --epoch_length "$joint" \
    --number_of_steps "$joint" --warmup_steps $((joint / 5)) --batch_size 96 \
    > "$pretrain/joint.out" 2>&1
log "joint: $(last_line "$output/train/train_log.txt")"
