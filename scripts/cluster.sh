#!/usr/bin/env bash
# A standalone Spark cluster of separate processes on this machine, to try a job on before it goes
# to a real one: a master and two workers of one core each, on loopback.
#
#   url=$(scripts/cluster.sh start DIR)     # DIR takes logs, process ids and the workers' files
#   scripts/submit.sh --master "$url" -- run --config conf/job.yaml
#   scripts/cluster.sh stop DIR
#
# PORT (7077), WORKERS (2) and WORKER_MEMORY (2g) may be set. spark-class comes from SPARK_HOME or
# from the PATH.
set -euo pipefail

usage() {
    echo "usage: scripts/cluster.sh start|stop DIR" >&2
    exit 2
}

stop() {
    for file in "$1"/*.pid; do
        [ -e "$file" ] || continue
        kill "$(cat "$file")" 2>/dev/null || true
        rm -f "$file"
    done
}

# wait_for DIR LOG TEXT TIMES: until TEXT stands TIMES times in the log
wait_for() {
    for _ in $(seq 120); do
        [ "$(grep -c "$3" "$1/$2.log" 2>/dev/null)" -ge "$4" ] && return 0
        sleep 0.5
    done
    echo "error: the cluster did not start within a minute: see $1/$2.log" >&2
    stop "$1"
    exit 1
}

[ $# -eq 2 ] || usage
dir=$2
case $1 in
start)
    if compgen -G "$dir/*.pid" >/dev/null; then
        echo "error: a cluster is running from $dir: stop it first" >&2
        exit 1
    fi
    mkdir -p "$dir"
    class=${SPARK_HOME:+$SPARK_HOME/bin/}spark-class
    command -v "$class" >/dev/null || {
        echo "error: $class is not there: install pyspark or set SPARK_HOME" >&2
        exit 1
    }
    export SPARK_LOCAL_IP=127.0.0.1 SPARK_LOCAL_DIRS=$dir/local
    # Workers take their executors' Python and folders from the environment.
    url=spark://127.0.0.1:${PORT:-7077}
    "$class" org.apache.spark.deploy.master.Master \
        --host 127.0.0.1 --port "${PORT:-7077}" --webui-port 0 >"$dir/master.log" 2>&1 </dev/null &
    echo $! >"$dir/master.pid"
    wait_for "$dir" master "I have been elected leader" 1
    for i in $(seq "${WORKERS:-2}"); do
        "$class" org.apache.spark.deploy.worker.Worker --host 127.0.0.1 --cores 1 \
            --memory "${WORKER_MEMORY:-2g}" --webui-port 0 --work-dir "$dir/worker-$i" \
            "$url" >"$dir/worker-$i.log" 2>&1 </dev/null &
        echo $! >"$dir/worker-$i.pid"
    done
    wait_for "$dir" master "Registering worker" "${WORKERS:-2}"
    echo "$url"
    ;;
stop)
    stop "$dir"
    ;;
*)
    usage
    ;;
esac
