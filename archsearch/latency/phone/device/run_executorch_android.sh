#!/bin/sh
# Measure the ExecuTorch models of this bundle with executor_runner on an Android phone, from a computer with adb.
#
#   sh run_executorch_android.sh PATH/executor_runner
#
# The tool is not shipped: it is built with ExecuTorch for Android, with XNNPACK, and without the event tracer, which costs time.
# ON=local measures on this computer instead of a phone. Every result lies in ./results; an earlier one is refused, not mixed in.
set -eu
BUNDLE=@BUNDLE@ THREADS=@THREADS@ WARMUP=@WARMUP@ RUNS=@RUNS@
HERE=$(cd "$(dirname "$0")" && pwd)
RESULTS=${RESULTS:-$HERE/results}
AT=${AT:-/data/local/tmp/archsearch}
if [ $# -lt 1 ]; then echo "usage: sh run_executorch_android.sh PATH/executor_runner" >&2; exit 2; fi
if [ -e "$RESULTS" ]; then echo "$RESULTS: is there already; move it away, so that two sittings are not mixed." >&2; exit 2; fi
TOOL=$1
if [ "${ON:-phone}" = local ]; then
    AT=$HERE
    RUN=$(cd "$(dirname "$TOOL")" && pwd)/$(basename "$TOOL")
    on() { sh -c "$1"; }
else
    adb shell "mkdir -p $AT"
    adb push "$HERE/models" "$AT/" >/dev/null
    for file in "$@"; do adb push "$file" "$AT/" >/dev/null; done
    RUN=$AT/$(basename "$TOOL")
    adb shell "chmod 755 $RUN"
    on() { adb shell "$1" </dev/null; }
fi
mkdir -p "$RESULTS"
printf '%s\n' "$BUNDLE" >"$RESULTS/bundle.txt"
EXECUTIONS=$((WARMUP + RUNS))
while read -r NUMBER KEY MODEL INPUTS; do
    echo "$NUMBER $KEY"
    LOG=$RESULTS/$NUMBER.$KEY.log
    on "cd $AT; $RUN --model_path=$MODEL --inputs=$INPUTS --num_executions=$EXECUTIONS --cpu_threads=$THREADS --print_output=none 2>&1; echo exit code: \$?" >"$LOG.writing"
    mv "$LOG.writing" "$LOG"
done <"$HERE/order.txt"
echo "$RESULTS: done. On the computer with archsearch: archsearch latency import --bundle BUNDLE --results results …"
