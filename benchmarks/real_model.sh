#!/usr/bin/env bash
# SmolLM2-135M-Instruct (or another model folder) trained by every method on one budget, measured on IFEval. In slices: call it
# again until it says that nothing is left. Needs no network.
#     benchmarks/real_model.sh --model FOLDER --seeds FILE --ifeval FILE [options] [key=value ...]
# --seeds: prompts people wrote, such as Dolly's; --ifeval: its input_data.jsonl, on which nothing is trained or tuned.
# key=value words go to every run; on a GPU: model.dtype=bfloat16 rollout.cache=static rollout.max_rows=256
set -uo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat >&2 <<'EOF'
--minutes 9      of this slice
--output DIR     default: runs/real-model
--methods LIST   default: sft,grpo,sft-grpo,mix,uniapl
--run-seeds 0    of every arm at first
--more-seeds 1,2 afterwards; '' for none
--untuned        no grid: the config's settings for all arms
--asked 2000     prompts that the expert is asked to demonstrate
--samples 16     answers per prompt; the expert is the best of them by the checkers
--matched 541    IFEval prompts that the expert answers too: what the policy's lengths and log-probs are held against
--tokens 512     of an answer to IFEval
--jobs 1         runs at the same time
--python PATH    default: .venv/bin/python
EOF
    exit 2
}

model='' seeds='' ifeval='' minutes=9 out=runs/real-model methods=sft,grpo,sft-grpo,mix,uniapl run_seeds=0 more_seeds=1,2
is_tuned=1 asked=2000 samples=16 matched=541 tokens=512 jobs=1 python=.venv/bin/python words=()
while (($#)); do
    case $1 in
        --untuned) is_tuned=0; shift; continue ;;
        *=*) words+=("$1"); shift; continue ;;
    esac
    (($# > 1)) || usage
    case $1 in
        --model) model=$2 ;;
        --seeds) seeds=$2 ;;
        --ifeval) ifeval=$2 ;;
        --minutes) minutes=$2 ;;
        --output) out=$2 ;;
        --methods) methods=$2 ;;
        --run-seeds) run_seeds=$2 ;;
        --more-seeds) more_seeds=$2 ;;
        --asked) asked=$2 ;;
        --samples) samples=$2 ;;
        --matched) matched=$2 ;;
        --tokens) tokens=$2 ;;
        --jobs) jobs=$2 ;;
        --python) python=$2 ;;
        *) echo "error: unknown option $1" >&2; usage ;;
    esac
    shift 2
done
[[ -n $model && -n $seeds && -n $ifeval ]] || usage
for given in "$model" "$seeds" "$ifeval"; do
    [[ -e $given ]] || { echo "error: $given: not there" >&2; exit 2; }
done

export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONPATH=src
data=$out/data
mkdir -p "$data" "$out/logs"
deadline=$(awk "BEGIN { print int($SECONDS + $minutes * 60) }")
uniapl=("$python" -m uniapl.cli)
is_left=0

# piece NAME COMMAND...: run it unless it is done; what is cut off goes on in the next slice.
piece() {
    local name=$1 left=$((deadline - SECONDS)) status
    shift
    [[ -e $out/$name.done ]] && return 0
    ((is_left)) && return 1
    if ((left < 20)); then is_left=1; return 1; fi
    echo "$name: at most $left s" >&2
    timeout --foreground --signal INT --kill-after 120 "$left" "$@" >"$out/logs/$name.out" 2>"$out/logs/$name.log"
    status=$?
    if ((status == 0)); then touch "$out/$name.done"; return 0; fi
    is_left=1
    if ((status == 124)); then echo "$name: not finished in this slice" >&2; return 1; fi
    echo "$name failed (status $status):" >&2
    tail -n 3 "$out/logs/$name.log" >&2
    ((status == 130)) && exit 130
    return 1
}

# What IFEval's prompts look like with the expert's answer where it gave one.
join_answers() {
    "$python" - "$1" "$2" "$3" <<'EOF'
import json, sys
asked, answered, joined = (sys.argv[1:])
rows = [json.loads(line) for line in open(asked, encoding="utf-8")]
known = {row["key"]: row["completion"] for row in map(json.loads, open(answered, encoding="utf-8"))}
with open(joined, "w", encoding="utf-8") as file:
    for row in rows:
        if row["key"] in known:
            row["completion"] = known[row["key"]]
        file.write(json.dumps(row) + "\n")
EOF
}

# A model of Qwen3-0.6B's shape with random weights that reads the same text.
make_shape() {
    "$python" - "$1" "$2" <<'EOF'
import sys
import torch
from transformers import AutoTokenizer
from benchmarks.shapes import build_model
model, folder = sys.argv[1:]
build_model("0.6b", torch.bfloat16, torch.device("cpu")).save_pretrained(folder)
AutoTokenizer.from_pretrained(model).save_pretrained(folder)
EOF
}
export python
export -f join_answers make_shape

config=src/uniapl/configs/smollm2-135m.yaml
settings=("model.path=$model" "data.demonstrations=$data/demonstrations.jsonl" "data.prompts=$data/prompts.jsonl"
    "evaluation.prompts=$data/ifeval.jsonl" "evaluation.validation_prompts=$data/validation.jsonl"
    "evaluation.max_completion_tokens=$tokens" ${words[@]+"${words[@]}"})
grids=()
if ((is_tuned)); then
    for method in ${methods//,/ }; do
        case $method in
            sft) grids+=(--grid "$method:optimizer.learning_rate=2e-6,5e-6,1e-5") ;;
            grpo | sft-grpo) grids+=(--grid "$method:objective.kl_coef=0,0.02,0.05") ;;
            mix) grids+=(--grid "$method:objective.sft_weight=0.1,0.3,1") ;;
            *) grids+=(--grid "$method:objective.adversarial_weight=0.03,0.1,0.3") ;;
        esac
    done
fi
baseline=${methods%%,*}
[[ ,$methods, == *,grpo,* ]] && baseline=grpo
compare=("${uniapl[@]}" compare "$config" --methods "$methods" --baseline "$baseline" --jobs "$jobs"
    --output "$out/comparison" ${grids[@]+"${grids[@]}"} "${settings[@]}")
expert=(--local "$model" --samples "$samples" --temperature 0.6)

piece prompts "${uniapl[@]}" prompts "$seeds" --output "$data/prompts.jsonl" --held-out "$data/held_out.jsonl" \
    --exclude "$ifeval" --max-instructions 2
head -n "$asked" "$data/prompts.jsonl" >"$data/asked.jsonl" 2>/dev/null
head -n 256 "$data/held_out.jsonl" >"$data/validation.jsonl" 2>/dev/null
piece demonstrations "${uniapl[@]}" collect "$data/asked.jsonl" --output "$data/demonstrations.jsonl" --max-tokens 256 "${expert[@]}"
piece answers "${uniapl[@]}" collect "$ifeval" --output "$data/answers.jsonl" --limit "$matched" --min-pass 0 \
    --max-tokens "$tokens" "${expert[@]}"
piece join bash -c 'join_answers "$@"' join "$ifeval" "$data/answers.jsonl" "$data/ifeval.jsonl"
piece compare "${compare[@]}" --seeds "$run_seeds"
[[ -z $more_seeds ]] || piece "compare with more seeds" "${compare[@]}" --seeds "$run_seeds,$more_seeds"
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    memory=("$python" -m benchmarks.memory "$config" "${settings[@]}" "model.path=$out/shape-0.6b" model.dtype=bfloat16
        training.steps=2 training.checkpoint_every=0 evaluation.limit=4)
    piece "shape of 0.6b" bash -c 'make_shape "$@"' make "$model" "$out/shape-0.6b"
    piece "memory full" "${memory[@]}" "output_dir=$out/memory-full"
    piece "memory lora" "${memory[@]}" "output_dir=$out/memory-lora" model.tuning=lora discriminator.backbone=lora
else
    echo "the memory of Qwen3-0.6B's shape is not measured: there is no CUDA device here"
fi

for file in "$out"/logs/memory\ *.out; do
    [[ -s $file ]] && echo "$(basename "$file" .out), Qwen3-0.6B's shape: $(<"$file")"
done
[[ -d $out/comparison/arms ]] && "$python" -m benchmarks.finished_arms "$out/comparison"
((is_left)) && echo "something is left: call it again" || echo "nothing is left"
