#!/usr/bin/env bash
# All stages on a machine of two GPUs or more, by the clock, from pretrained/diffasr-base or
# START=FOLDER:
#   ./gpus.sh DATA [OUTPUT]
# DATA holds human, kokoro, espeak, text.csv and tokenizer.json. Seconds of each stage, and steps of
# the last, e.g.
#   TEXT=600 ENCODER=480 HEARD=900 JOINT=100 ./gpus.sh data
# All GPUs train on text, which also fills the compiler's cache; then each fold has a GPU, and if
# there are three the encoder goes on, too; then all hear speech.
# Text needs no speech: TEXT_ONLY=1 makes the first stage alone, while speech is still being made,
# and TEXT=0 then leaves it out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
data=$(realpath "${1:?usage: gpus.sh DATA [OUTPUT]}")
output=$(realpath -m "${2:-results}")
pretrain=$output/pretrain
text=${TEXT:-600} encoder=${ENCODER:-480} heard=${HEARD:-900} joint=${JOINT:-100}
start=$(realpath "${START:-../../pretrained/diffasr-base}")
common=(--data_folder "$data" --embeddings "$start" --fixed_embeddings True --compile)
gpus=$(nvidia-smi -L | wc -l)
if [ "$gpus" -lt 2 ]; then
    echo "gpus.sh: needs two GPUs; README.md has the stages one by one" >&2
    exit 1
fi
mkdir -p "$pretrain"
# The first batches are of many sizes.
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

log() { echo "$(date +%T) $*" | tee -a "$output/stages.log"; }
on() { local gpu=$1; shift; CUDA_VISIBLE_DEVICES=$gpu python3 "$@" --device cuda:0; }
on_all() { python3 -m torch.distributed.run --standalone --nproc_per_node "$gpus" "$@"; }

if [ "$text" != 0 ]; then
    log "text on $gpus GPUs"
    on_all pretrain_denoiser.py pretrain.yaml "${common[@]}" --continue_from "$start" \
        --output_folder "$pretrain" --log_every 50 --denoiser "{seconds: $text}" \
        > "$pretrain/text.out" 2>&1
    log "text: $(tail -n 1 "$pretrain/denoiser.log")"
elif [ ! -f "$pretrain/base.safetensors" ]; then
    cp "$start/base.safetensors" "$pretrain/"
fi
if [ -n "${TEXT_ONLY:-}" ]; then
    exit
fi

log "folds on $gpus GPUs"
stages=()
for fold in 0 1; do
    mkdir -p "$pretrain/fold$fold"
    on "$fold" pretrain_encoder.py pretrain.yaml "${common[@]}" --fold "$fold" \
        --output_folder "$pretrain/fold$fold" --whisper_source "${WHISPER:-openai/whisper-base}" \
        --encoder "{seconds: $encoder}" > "$pretrain/fold$fold/encoder.out" 2>&1 &
    stages+=($!)
done
if [ "$gpus" -ge 3 ]; then
    on 2 pretrain_encoder.py pretrain.yaml "${common[@]}" --continue_from "$start" \
        --output_folder "$pretrain" --encoder "{seconds: $encoder}" > "$pretrain/encoder.out" 2>&1 &
    stages+=($!)
else
    cp "$start/whisper.safetensors" "$start/projector.safetensors" "$pretrain/"
fi
for stage in "${stages[@]}"; do wait "$stage"; done
log "folds: $(grep -h step "$pretrain"/fold?/encoder.log | tail -n 1)"

cp "$pretrain/base.safetensors" "$pretrain/base_text.safetensors"
on_all pretrain_denoiser.py pretrain.yaml "${common[@]}" --output_folder "$pretrain" --heard True \
    --log_every 50 --denoiser "{seconds: $heard}" > "$pretrain/heard.out" 2>&1
log "heard: $(tail -n 1 "$pretrain/denoiser.log")"

on 0 train.py train.yaml --data_folder "$data" --pretrain_folder "$pretrain" \
    --output_folder "$output/train" --number_of_epochs 1 --epoch_length "$joint" \
    --number_of_steps "$joint" --warmup_steps $((joint / 5)) --batch_size 96 \
    > "$pretrain/joint.out" 2>&1
log "joint: $(tail -n 1 "$output/train/train_log.txt")"
