#!/bin/sh
# Runs the random tests again and again with seeds drawn anew, for SOAK minutes (10).
# What fails is shown with its seed at once and named at the end, and the run goes on.
set -eu
cd "$(dirname "$0")/.."
exec </dev/null

minutes=${SOAK:-10}
case $minutes in
"" | *[!0-9]*)
	echo "soak: SOAK=$minutes: use a number of minutes" >&2
	exit 2
	;;
esac
tools=$(sh scripts/install-tools.sh) && export MASSIF_TOOLS="$tools" ||
	echo "soak: some test servers could not be built" >&2
if [ "$(id -u)" -eq 0 ]; then
	export MASSIF_REQUIRE_TOOLS="${MASSIF_REQUIRE_TOOLS-1}"
fi
export MASSIF_SEED="${MASSIF_SEED:-random}"
if [ "$MASSIF_SEED" = random ]; then
	unset RAPID_SEED || true
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=
# suite PACKAGE TESTS [VARIABLE=VALUE]: a run of some tests; a failure shows their seeds.
suite() {
	[ "$(date +%s)" -lt "$end" ] || return 0
	if env ${3+"$3"} go test -count 1 -timeout 20m -run "$2" "$1" >"$log" 2>&1; then
		echo "$(date +%H:%M:%S) round $round: $(tail -n 1 "$log")"
	else
		cat "$log"
		failed="$failed
	round $round: ${3+$3 }go test -run '$2' $1"
	fi
}

round=0
end=$(($(date +%s) + minutes * 60))
while [ "$(date +%s)" -lt "$end" ]; do
	round=$((round + 1))
	suite ./test/shared .
	suite ./tree/volume .
	suite ./test/shared . MASSIF_SHARED_REMOTE=1
	suite ./meta .
	suite ./meta/sealed .
	suite ./meta/metarpc .
	suite ./kv/mem .
	suite ./kv/pebble .
	suite ./object/mem .
	suite ./object/file .
	suite ./block .
	suite ./telemetry .
	suite ./test '^(TestFsx|TestNamespace|TestLocal|TestCrash)$'
done
if [ -n "$failed" ]; then
	echo "soak: failed, with the seeds that are shown above (MASSIF_SEED):$failed"
	exit 1
fi
echo "soak: $round rounds in $minutes minutes, all well"
