#!/usr/bin/env bash
# Everything that is measured on a CUDA device, in slices: call it again until it says that nothing is left.
#     benchmarks/gpu.sh [--minutes 9] [--results FOLDER] [--python PATH]
# What failed is said and skipped from then on; remove its log to try again. Needs no network.
set -uo pipefail
cd "$(dirname "$0")/.."

minutes=9 results=benchmarks/results python=.venv/bin/python
while (($#)); do
    case $1 in
        --minutes) minutes=$2 ;;
        --results) results=$2 ;;
        --python) python=$2 ;;
        *) echo "error: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONPATH=src
mkdir -p "$results/failed"
output=$results/cuda.json
deadline=$((SECONDS + minutes * 60))

# Section of the results | module and options. First what the targets are about.
work='--prompts 32 --group-size 8 --prompt-length 128 --tokens 192'
pieces=(
    "tests|pytest -q -m gpu tests"
    "rollouts 0.6b|benchmarks.rollouts --shape 0.6b $work --rounds 3"
    "step 0.6b|benchmarks.step --shape 0.6b $work --demonstrations 32 --paired 8 --rounds 3"
    "training 0.6b|benchmarks.training --shape 0.6b $work --rounds 5"
    "rollouts 135m|benchmarks.rollouts --shape 135m $work --rounds 3"
    "rollouts 0.6b uneven|benchmarks.rollouts --shape 0.6b $work --mean-length 96 --rounds 3"
    "ranks 0.6b|benchmarks.ranks --shape 0.6b --contestants plain one-rank one-rank-full --rounds 3"
    "scaling 0.6b|benchmarks.scaling --shape 0.6b --prompts 8 --group-size 4 --tokens 32 --rounds 3"
)

is_done() {
    [[ -e "$results/$1.done" ]] && return
    [[ -e $output ]] && "$python" - "$output" "$1" <<'EOF'
import json, sys
sys.exit(not json.load(open(sys.argv[1])).get(sys.argv[2], {}).get("is_complete", False))
EOF
}

for piece in "${pieces[@]}"; do
    name=${piece%%|*} command=${piece#*|} log="$results/failed/${piece%%|*}.log"
    left=$((deadline - SECONDS))
    if is_done "$name" || [[ -e $log ]]; then continue; fi
    if ((left < 60)); then echo "$name: left for the next slice"; continue; fi
    bounds=()
    [[ $name == tests ]] || bounds=(--device cuda --dtype bfloat16 --output "$output"
        --minutes "$(awk "BEGIN { print $left / 60 - 0.5 }")")
    echo "$name: at most $left s"
    # shellcheck disable=SC2086 # the options are words
    timeout "$left" "$python" -m $command "${bounds[@]}" >"$log" 2>&1
    status=$?
    if ((status == 0)); then
        [[ $name == tests ]] && { tail -1 "$log"; touch "$results/tests.done"; }
        rm "$log"
    elif ((status == 124)); then
        echo "$name: not finished in this slice"
        rm "$log"
    fi
done

for log in "$results"/failed/*.log; do
    [[ -e $log ]] && printf '\nFAILED %s\n%s\n' "$(basename "$log" .log)" "$(tail -5 "$log")"
done
[[ -e $output ]] && "$python" -m benchmarks.tables "$output"
exit 0
