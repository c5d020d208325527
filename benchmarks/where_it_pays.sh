#!/usr/bin/env bash
# Where the adversarial term pays, on the miniature: all arms in one situation (docs/results/miniature.md), resumable.
#     benchmarks/where_it_pays.sh sound|binary|few|hole|gamed|half [--seeds 0,1,2] [--arms main|more|all] [--jobs 2] \
#         [--minutes 600] [--output FOLDER] [key=value ...]
# Finished runs lie in FOLDER/SITUATION/arms; what stops goes on with the same command. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

situation=${1:?sound, binary, few, hole, gamed or half}
shift
seeds=0,1,2 arms=main jobs=2 minutes=600 output=runs/where-it-pays given=()
while (($#)); do
    case $1 in
        --seeds) seeds=$2 ;;
        --arms) arms=$2 ;;
        --jobs) jobs=$2 ;;
        --minutes) minutes=$2 ;;
        --output) output=$2 ;;
        -*) echo "error: unknown option $1" >&2; exit 2 ;;
        *) given+=("$1"); shift; continue ;;
    esac
    shift 2
done
uniapl=("${PYTHON:-.venv/bin/python}" -m uniapl)
prepared=$output/prepared made=runs/miniature data=src/uniapl/miniature/data
mkdir -p "$prepared"

write() { # aside, then in its place: another call may read it now
    cat >"$prepared/$1.$$"
    mv "$prepared/$1.$$" "$prepared/$1"
}

# a scorer that learns needs two texts per prompt; the second ones get keys of their own
{ cat "$data/demonstrations.jsonl"; sed 's/^{"key": [0-9]*, /{/' "$data/second_texts.jsonl"; } | write both.jsonl

need() { # a part of the miniature that does not ship
    [[ -e $made/$1 ]] && return
    "${uniapl[0]}" -m uniapl.miniature.build --only "$1" --output "$made"
}

# The settings that were chosen on the validation prompts of the sound situation (LOG.md).
expert=(discriminator.form=expert discriminator.path=src/uniapl/miniature/expert objective.adversarial_weight=1)
reference=(discriminator.form=reference "discriminator.path=$made/scorer" "objective.adversarial_weight=${LAMBDA_REFERENCE:-0.03}")
declare -A settings=(
    [mix-both]="objective.sft_weight=0.1"
    [mix]="objective.sft_weight=0.3"
    [grpo]="objective.kl_coef=0.05"
    [sft-grpo]="objective.kl_coef=0.02"
    [uniapl]="objective.adversarial_weight=0.3"
    [expert=uniapl]="${expert[*]}"
    [reference=uniapl]="${reference[*]}"
    [group=mix-both]="objective.sft_weight=0.1 rollout.expert_in_group=true"
    [chord]=""
    [a-chord]="${reference[*]}"
    [sft-a-grpo]="${reference[*]}"
    [a-sft-a-grpo]="${reference[*]}"
    [shaped]="${reference[*]}"
    [learned=uniapl]="${reference[*]} discriminator.frozen=false data.demonstrations=$prepared/both.jsonl"
    [larger=uniapl]="discriminator.path=$made/larger objective.adversarial_weight=0.3"
    [weaker=uniapl]="discriminator.form=expert discriminator.path=$made/weaker objective.adversarial_weight=1"
    [copy=uniapl]="discriminator.form=expert discriminator.path=$prepared/sft/policy objective.adversarial_weight=1"
    [fresh=mix-both]="objective.sft_weight=0.1 data.demonstrations=$prepared/fresh.jsonl"
    [alone=uniapl]="${expert[*]} objective.sft_weight=0 objective.grpo_weight=0"
)
main=(mix-both mix grpo uniapl expert=uniapl) more=() words=(training.steps=100)
case $situation in
    sound)
        main=(mix-both mix grpo sft-grpo uniapl expert=uniapl reference=uniapl)
        more=(chord a-chord sft-a-grpo a-sft-a-grpo shaped learned=uniapl larger=uniapl weaker=uniapl copy=uniapl
            fresh=mix-both alone=uniapl)
        ;;
    binary) main=(mix-both grpo uniapl expert=uniapl group=mix-both) ;;
    gamed) main=(mix-both reference=uniapl learned=uniapl) ;;
esac
case $arms in
    main) list=("${main[@]}") ;;
    more) list=(mix-both "${more[@]}") ;;
    all) list=("${main[@]}" "${more[@]}") ;;
    *) echo "error: --arms is main, more or all" >&2; exit 2 ;;
esac
case $situation in
    sound) words=(training.steps=200) ;;
    binary) words+=('rewards=[{function: instructions, all_or_nothing: 1}]') ;;
    few)
        head -40 "$data/demonstrations.jsonl" | write few.jsonl
        words+=("data.demonstrations=$prepared/few.jsonl")
        ;;
    hole | gamed)
        words+=('rewards=[{function: uniapl.miniature.loophole:gameable}]'
            'evaluation.metrics=[uniapl.miniature.metrics:fluency, uniapl.miniature.metrics:joint, uniapl.miniature.loophole:hack_fraction]')
        if [[ $situation == gamed ]]; then words+=(training.steps=300 "data.demonstrations=$prepared/both.jsonl"); fi
        ;;
    half) # every second prompt has no checkable instruction, and so no reward
        for name in demonstrations prompts; do
            "${uniapl[0]}" -c '
import json, sys
for number, line in enumerate(sys.stdin):
    row = json.loads(line)
    if number % 2:
        row["instruction_id_list"] = row["kwargs"] = None
    print(json.dumps(row, ensure_ascii=False))' <"$data/$name.jsonl" | write "half-$name.jsonl"
        done
        words+=("data.demonstrations=$prepared/half-demonstrations.jsonl" "data.prompts=$prepared/half-prompts.jsonl")
        ;;
    *) echo "error: no situation $situation" >&2; exit 2 ;;
esac

names=() grid=() few_seeds=() # the arms of `more` take the first three seeds, also beside main ones with five
for arm in "${list[@]}"; do
    for part in scorer larger weaker; do
        if [[ ${settings[$arm]} == *"$made/$part"* ]]; then need "$part"; fi
    done
    if [[ ${settings[$arm]} == *"$prepared/sft/"* ]]; then
        "${uniapl[@]}" train miniature method=sft "output_dir=$prepared/sft" training.resume=auto training.steps=200 \
            optimizer.learning_rate=1e-3 data.held_out_demonstrations=16 training.threads=1
    fi
    if [[ ${settings[$arm]} == *"$prepared/fresh"* && ! -e $prepared/fresh.jsonl ]]; then
        "${uniapl[@]}" collect "$data/demonstrations.jsonl" --local src/uniapl/miniature/expert --samples 8 --keep 8 --min-pass 0 \
            --max-tokens 80 --output "$prepared/fresh.jsonl"
    fi
    names+=("$arm")
    if [[ $arms == all && " ${more[*]} " == *" $arm "* ]]; then few_seeds+=("${arm%%=*}:$(cut -d, -f1-3 <<<"$seeds")"); fi
    for setting in ${settings[$arm]}; do grid+=(--grid "${arm%%=*}:$setting"); done
done
timeout --signal=TERM --kill-after=120 $((minutes * 60)) "${uniapl[@]}" compare miniature \
    --methods "$(IFS=,; echo "${names[*]}")" --seeds "$seeds" "${few_seeds[@]}" --baseline mix-both --jobs "$jobs" --output "$output/$situation" \
    "${grid[@]}" "${words[@]}" data.held_out_demonstrations=16 training.evaluate_every=50 training.gradients_every=50 \
    training.checkpoint_every=50 training.keep_checkpoints=1 training.threads=1 "${given[@]}"
