#!/bin/sh
# Runs every fuzz test for FUZZTIME (default 20s), one after the other.
#
#   scripts/fuzz.sh            all packages
#   scripts/fuzz.sh ./meta     only those named
set -eu
cd "$(dirname "$0")/.."
status=0
for package in $(go list "${@:-./...}"); do
	for name in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "== $package $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-20s}" "$package" || status=1
	done
done
exit "$status"
