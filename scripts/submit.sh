#!/usr/bin/env bash
# Runs dsir-spark through spark-submit and ships to executors what they need of the package, which is
# `dsir_spark.features`:
#
#   scripts/submit.sh --master spark://host:7077 --executor-memory 4g -- run --config conf/job.yaml
#
# What stands before `--` goes to spark-submit, what stands behind it to dsir-spark. The Python of
# the executors (PYSPARK_PYTHON) needs numpy, pyarrow and numba. DELTA_PACKAGE names other Delta
# jars; an empty one leaves them out, where the cluster has its own.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

submit=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    submit+=("$1")
    shift
done
if [ $# -lt 2 ]; then
    echo "usage: scripts/submit.sh [spark-submit options] -- COMMAND [dsir-spark options]" >&2
    exit 2
fi
shift

python=${PYSPARK_PYTHON:-python3}
package=${DELTA_PACKAGE-$(cd "$root" && "$python" - <<'PYTHON'
from dsir_spark.session import delta_package

print(delta_package())
PYTHON
)}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
(cd "$root" && "$python" - "$build/dsir_spark.zip") <<'PYTHON'
import sys
import zipfile
from pathlib import Path

with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as out:
    for path in ("dsir_spark/__init__.py", *sorted(Path("dsir_spark/features").glob("*.py"))):
        out.write(path)
PYTHON

spark-submit ${package:+--packages "$package"} --py-files "$build/dsir_spark.zip" \
    ${submit[@]+"${submit[@]}"} "$root/scripts/dsir_job.py" "$@"
