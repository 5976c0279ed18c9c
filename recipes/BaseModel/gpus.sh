#!/usr/bin/env bash
# All stages on a machine of several GPUs, by the clock, from pretrained/diffasr-base or START=FOLDER:
#   ./gpus.sh DATA [OUTPUT]
# DATA holds human, kokoro, espeak, text.csv and tokenizer.json. Seconds of each stage, and steps of
# the last, e.g.
#   ENCODER=900 TEXT=900 HEARD=900 JOINT=300 ./gpus.sh data
# With four GPUs encoder, both folds and text run side by side. With two, the encoder stays as it is
# and speech is of the voices that one fold leaves out.
# Text needs no speech: TEXT_ONLY=1 trains the denoiser's first stage alone, on the last GPU, while
# speech is still being made, and TEXT=0 then leaves it out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
data=$(realpath "${1:?usage: gpus.sh DATA [OUTPUT]}")
output=$(realpath -m "${2:-results}")
pretrain=$output/pretrain
encoder=${ENCODER:-480} text=${TEXT:-600} heard=${HEARD:-480} joint=${JOINT:-100}
start=$(realpath "${START:-../../pretrained/diffasr-base}")
common=(--data_folder "$data" --embeddings "$start" --fixed_embeddings True)
gpus=$(nvidia-smi -L | wc -l)
mkdir -p "$pretrain"
# The first batches are of many sizes.
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

log() { echo "$(date +%T) $*" | tee -a "$output/stages.log"; }
on() { local gpu=$1; shift; CUDA_VISIBLE_DEVICES=$gpu python3 "$@" --device cuda:0; }

train_text() {
    on $((gpus - 1)) pretrain_denoiser.py pretrain.yaml "${common[@]}" --continue_from "$start" \
        --output_folder "$pretrain" --denoiser "{seconds: $text}" > "$pretrain/text.out" 2>&1
    log "text: $(tail -n 1 "$pretrain/denoiser.log")"
}

if [ -n "${TEXT_ONLY:-}" ]; then
    train_text
    exit
fi
if [ "$gpus" -ge 4 ]; then
    folds=(0 1) first_gpu=1
elif [ "$gpus" -ge 2 ]; then
    folds=(0) first_gpu=0
else
    echo "gpus.sh: needs two GPUs or four; README.md has the stages one by one" >&2
    exit 1
fi
log "encoder, folds, text on $gpus GPUs"
stages=()
if [ "$gpus" -ge 4 ]; then
    on 0 pretrain_encoder.py pretrain.yaml "${common[@]}" --output_folder "$pretrain" --compile \
        --continue_from "$start" --encoder "{seconds: $encoder}" > "$pretrain/encoder.out" 2>&1 &
    stages+=($!)
else
    cp "$start/whisper.safetensors" "$start/projector.safetensors" "$pretrain/"
fi
for fold in "${folds[@]}"; do
    mkdir -p "$pretrain/fold$fold"
    on $((fold + first_gpu)) pretrain_encoder.py pretrain.yaml "${common[@]}" --compile \
        --fold "$fold" --output_folder "$pretrain/fold$fold" \
        --whisper_source "${WHISPER:-openai/whisper-base}" --encoder "{seconds: $encoder}" \
        > "$pretrain/fold$fold/encoder.out" 2>&1 &
    stages+=($!)
done
if [ "$text" != 0 ]; then
    train_text &
    stages+=($!)
elif [ ! -f "$pretrain/base.safetensors" ]; then
    cp "$start/base.safetensors" "$pretrain/"
fi
for stage in "${stages[@]}"; do wait "$stage"; done
log "folds: $(grep -h step "$pretrain"/fold?/encoder.log | tail -n 1)"

cp "$pretrain/base.safetensors" "$pretrain/base_text.safetensors"
python3 -m torch.distributed.run --standalone --nproc_per_node "$gpus" pretrain_denoiser.py \
    pretrain.yaml "${common[@]}" --output_folder "$pretrain" --heard True \
    --heard_folds "[$(IFS=,; echo "${folds[*]}")]" --log_every 50 \
    --denoiser "{seconds: $heard, heard_batch_size: 128, lr: 6.0e-4, warmup_steps: 60, average: 0.99}" \
    > "$pretrain/heard.out" 2>&1
log "heard: $(tail -n 1 "$pretrain/denoiser.log")"

on 0 train.py train.yaml --data_folder "$data" --pretrain_folder "$pretrain" \
    --output_folder "$output/train" --number_of_epochs 1 --epoch_length "$joint" \
    --number_of_steps "$joint" --warmup_steps $((joint / 5)) --batch_size 96 \
    > "$pretrain/joint.out" 2>&1
log "joint: $(tail -n 1 "$output/train/train_log.txt")"
