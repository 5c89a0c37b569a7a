#!/usr/bin/env bash
# Spark needs Java 17 or newer: found, else installed by the system's package manager, else one sentence that says how.
set -euo pipefail

is_enough() {
    local version
    version=$("$1" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1)
    [ -n "$version" ] && [ "$version" -ge 17 ]
}

for java in "${SHOPGRAPH_JAVA_HOME:+$SHOPGRAPH_JAVA_HOME/bin/java}" "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)"; do
    if [ -n "$java" ] && [ -x "$java" ] && is_enough "$java"; then
        exit 0
    fi
done

say_how() {
    echo "error: Spark needs Java 17 or newer and none was found; install one (for example \`$1\`), or set JAVA_HOME to it." >&2
    exit 1
}

if command -v apt-get >/dev/null; then
    [ "$(id -u)" = 0 ] || say_how "sudo apt-get install openjdk-17-jre-headless"
    echo "Installing Java 17 (openjdk-17-jre-headless) ..."
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless >/dev/null \
        || say_how "apt-get install openjdk-17-jre-headless"
elif command -v dnf >/dev/null; then
    [ "$(id -u)" = 0 ] || say_how "sudo dnf install java-17-openjdk-headless"
    dnf install -y -q java-17-openjdk-headless || say_how "dnf install java-17-openjdk-headless"
elif command -v brew >/dev/null; then
    brew install --quiet openjdk@17 || say_how "brew install openjdk@17"
    # keg-only: Homebrew links no `java`, so only JAVA_HOME leads there
    echo "error: Homebrew has openjdk@17 but does not put it on the PATH; run \`export JAVA_HOME=\$(brew --prefix openjdk@17)\`, then this again." >&2
    exit 1
else
    say_how "the OpenJDK 17 of your system"
fi
