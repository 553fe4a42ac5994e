#!/bin/sh
# The tests of "make test": first those of concurrent code under the race
# detector, then all. Ends with the output of go test.
set -eu
cd "$(dirname "$0")/.."
exec </dev/null

tools=$(sh scripts/install-tools.sh) && export MASSIF_TOOLS="$tools" ||
	echo "test: some test servers could not be built" >&2
# On a machine that was set up by root a missing tool is a failure, not a skip.
if [ "$(id -u)" -eq 0 ]; then
	export MASSIF_REQUIRE_TOOLS="${MASSIF_REQUIRE_TOOLS-1}"
fi

status=0
if command -v gcc >/dev/null 2>&1; then
	echo "== go test -race -short (concurrent code)"
	# shellcheck disable=SC2046
	CGO_ENABLED=1 go test -race -short -timeout 15m $(go list ./kv/... ./meta/... ./block/... ./cache/... ./object/... ./tree/... ./door/... ./mount/... ./seal/... ./service/... ./compat/... ./telemetry/... 2>/dev/null) || status=$?
else
	echo "test: no C compiler, so no race detector" >&2
fi
echo "== go test (everything)"
# Compiled as the program is, so that nothing is compiled twice; ./test first, because it
# takes longest.
CGO_ENABLED=0 go test -trimpath -timeout 20m ./test ./... || status=$?
exit "$status"
