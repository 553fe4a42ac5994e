#!/bin/sh
# What the source must satisfy besides its tests: format, vet, staticcheck,
# govulncheck. Tools that cannot be had (no network) are named and passed over;
# what a tool finds is a failure.
set -u
cd "$(dirname "$0")/.."
status=0

echo "== gofmt"
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	echo "not formatted: $unformatted"
	status=1
fi

echo "== go vet"
go vet ./... || status=1

# tool NAME PACKAGE@VERSION ARGS...: builds the tool once into the tools directory.
bin=${MASSIF_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/massif-tools}
tool() {
	name=$1 package=$2
	shift 2
	echo "== $name"
	if ! [ -x "$bin/$name" ] || [ "$(cat "$bin/$name.version" 2>/dev/null)" != "$package" ]; then
		mkdir -p "$bin"
		if ! out=$(GOBIN=$bin GOFLAGS= go install "$package" 2>&1); then
			echo "$name could not be built here, passed over: $(echo "$out" | tail -n 1)"
			return
		fi
		echo "$package" >"$bin/$name.version"
	fi
	out=$("$bin/$name" "$@" 2>&1)
	code=$?
	[ -z "$out" ] || echo "$out"
	if [ "$code" -ne 0 ]; then
		case $out in
		*"fetching vulnerabilities"* | *"dial tcp"* | *"no such host"* | *"connection refused"* | *"TLS handshake"* | *"i/o timeout"*)
			echo "$name has no access to its database here: passed over"
			;;
		*) status=1 ;;
		esac
	fi
}
tool staticcheck honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
tool govulncheck golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

if [ "$status" -eq 0 ]; then echo "check: all well"; else echo "check: see above"; fi
exit "$status"
