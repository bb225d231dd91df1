#!/bin/sh
# Says in one line what is missing, and exits with 1; says nothing and exits with 0 when all is there.
# Usage: check_prerequisites.sh [PYTHON]
python=${1:-python3}

fail() {
    echo "dsir-spark: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "Python is missing ($python): install Python 3.10 or newer, or name one: make PYTHON=python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail "$python does not run: install Python 3.10 or newer, or name one: make PYTHON=python3.11"
minor=${version#*.}
if [ "${version%%.*}" -lt 3 ] || { [ "${version%%.*}" -eq 3 ] && [ "$minor" -lt 10 ]; }; then
    fail "Python $version is too old ($python): install Python 3.10 or newer, or name one: make PYTHON=python3.11"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python $version has no venv module ($python): install it (Debian and Ubuntu: apt install python3-venv)"

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
if ! command -v "$java" >/dev/null 2>&1; then
    [ -z "${JAVA_HOME:-}" ] ||
        fail "Java is missing: JAVA_HOME is $JAVA_HOME, which has no bin/java; point it at a Java 17 or newer"
    fail "Java is missing: install Java 17 or newer (Debian and Ubuntu: apt install openjdk-17-jre-headless), or set JAVA_HOME"
fi
line=$("$java" -version 2>&1 | sed -n 's/.* version "\([^"]*\)".*/\1/p' | sed -n 1p)
major=${line#1.}
major=${major%%[!0-9]*}
[ -n "$major" ] ||
    fail "Java does not run ($java): install Java 17 or newer, or set JAVA_HOME"
[ "$major" -ge 17 ] ||
    fail "Java $major is too old ($java): install Java 17 or newer, or set JAVA_HOME"
