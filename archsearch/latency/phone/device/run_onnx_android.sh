#!/bin/sh
# Measure the ONNX models of this bundle with onnxruntime_perf_test on an Android phone, from a computer with adb.
#
#   sh run_onnx_android.sh PATH/onnxruntime_perf_test [PATH/libonnxruntime.so]
#
# The tool is not shipped: it is built with ONNX Runtime for Android (https://onnxruntime.ai/docs/build/android.html).
# ON=local measures on this computer instead of a phone. Every result lies in ./results; an earlier one is refused, not mixed in.
set -eu
BUNDLE=@BUNDLE@ THREADS=@THREADS@ WARMUP=@WARMUP@ RUNS=@RUNS@
HERE=$(cd "$(dirname "$0")" && pwd)
RESULTS=${RESULTS:-$HERE/results}
AT=${AT:-/data/local/tmp/archsearch}
if [ $# -lt 1 ]; then echo "usage: sh run_onnx_android.sh PATH/onnxruntime_perf_test [PATH/libonnxruntime.so]" >&2; exit 2; fi
if [ -e "$RESULTS" ]; then echo "$RESULTS: is there already; move it away, so that two sittings are not mixed." >&2; exit 2; fi
TOOL=$1
if [ "${ON:-phone}" = local ]; then
    AT=$HERE
    RUN=$(cd "$(dirname "$TOOL")" && pwd)/$(basename "$TOOL")
    on() { sh -c "$1"; }
    fetch() { mv "$1" "$2"; }
else
    adb shell "mkdir -p $AT"
    adb push "$HERE/models" "$AT/" >/dev/null
    for file in "$@"; do adb push "$file" "$AT/" >/dev/null; done
    RUN=$AT/$(basename "$TOOL")
    adb shell "chmod 755 $RUN"
    on() { adb shell "$1" </dev/null; }
    fetch() { adb pull "$1" "$2" >/dev/null </dev/null; on "rm -f $1"; }
fi
mkdir -p "$RESULTS"
printf '%s\n' "$BUNDLE" >"$RESULTS/bundle.txt"
REPEATS=$((WARMUP + RUNS))
while read -r NUMBER KEY MODEL INPUTS; do
    echo "$NUMBER $KEY"
    LOG=$RESULTS/$NUMBER.$KEY.log
    on "cd $AT; rm -f run.csv; LD_LIBRARY_PATH=$AT $RUN -e cpu -o 2 -x $THREADS -y 1 -m times -r $REPEATS $MODEL run.csv 2>&1; echo exit code: \$?" >"$LOG.writing"
    if grep -q '^exit code: 0' "$LOG.writing"; then fetch "$AT/run.csv" "$RESULTS/$NUMBER.$KEY.csv" || true; fi
    mv "$LOG.writing" "$LOG"
done <"$HERE/order.txt"
echo "$RESULTS: done. On the computer with archsearch: archsearch latency import --bundle BUNDLE --results results …"
