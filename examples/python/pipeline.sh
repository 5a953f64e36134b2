#!/usr/bin/env bash
# A pipeline of command lines that run as tasks: three steps, the second one in four parts at once,
# each step begun when the one before it has succeeded. It counts primes.
#
# With a server running (`duite server`), and duite on the PATH (or in $DUITE):
#
#   duite worker --allow-exec --queue pipeline      (here or elsewhere, as often as you like)
#   examples/python/pipeline.sh [LIMIT]
#
# Steps share a state: `duite state watch STATE`, whose name is printed, shows them at work.
set -euo pipefail

duite=${DUITE:-duite}
limit=${1:-20000}
queue=${PIPELINE_QUEUE:-pipeline}
state=pipeline-$$-$(date +%s)
parts=4

echo "state: $state"

# Step 1: one task, followed to its end. A line that begins with `::duite` is not output: it sets
# the state's keys. A failing step ends this script, as any failing command does.
"$duite" run --queue "$queue" --state "$state" -- bash -c '
    echo "::duite progress=0.0 phase=\"plan\" total='"$parts"'"
    echo "planned: up to '"$limit"'"
'

# Step 2: the parts, all submitted before any is waited for. They add to keys that they share.
tasks=()
for part in $(seq "$parts"); do
    tasks+=("$("$duite" run --detach --queue "$queue" --state "$state" \
        --env PART="$part" --env PARTS="$parts" --env LIMIT="$limit" -- bash -c '
        set -euo pipefail
        low=$((LIMIT * (PART - 1) / PARTS + 1)) high=$((LIMIT * PART / PARTS))
        primes=$(seq "$low" "$high" | factor | awk "NF == 2" | wc -l)
        echo "::duite primes+=$primes parts+=1 progress+=0.2 phase=\"count\""
    ')")
done
"$duite" task watch "${tasks[@]}" # ends when all have; fails where one has not succeeded

# Step 3: what it reads is what the parts have added up. $DUITE_STATE, which the worker sets, is why
# `duite state` needs no name inside of a task: a dot stands for the task's own.
"$duite" run --queue "$queue" --state "$state" --env DUITE="$duite" -- bash -c '
    set -euo pipefail
    primes=$("$DUITE" state get . primes)
    "$DUITE" state set progress=1 phase=done result="$primes primes"
    echo "$primes primes"
'
"$duite" state get "$state"
