#!/bin/sh
# Installs the servers that tests run against into one directory:
# $MASSIF_TOOLS, else $XDG_CACHE_HOME/massif-tools, else ~/.cache/massif-tools.
#
# Safe to run again: a tool that is there in the wanted version costs nothing.
# Prints the directory on standard output, everything else on standard error.
#
#   scripts/install-tools.sh            all servers
#   scripts/install-tools.sh versitygw  only those named (versitygw, azurite-blob, fake-gcs-server)
#   scripts/install-tools.sh minio      another S3 server, not among "all": heavy to build
set -eu

dir=${MASSIF_TOOLS:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/massif-tools}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# go_tool NAME PACKAGE VERSION: a program built by "go install". The version that
# was installed is remembered beside the program, in NAME.version. It is built in
# a directory of its own and moved into place, so that an interrupted run, or two
# at once, never leave half a program.
go_tool() {
	if [ -x "$dir/$1" ] && [ "$(cat "$dir/$1.version" 2>/dev/null)" = "$2@$3" ]; then
		return 0
	fi
	command -v go >/dev/null || { echo "install-tools: Go is needed to build $1" >&2; return 1; }
	echo "install-tools: building $1 $3 into $dir" >&2
	tmp=$(mktemp -d "$dir/.build-$1.XXXXXX")
	if ! (cd "$tmp" && GOBIN=$tmp GOFLAGS=-trimpath CGO_ENABLED=0 GOWORK=off go install "$2@$3" >&2); then
		rm -rf "$tmp"
		echo "install-tools: $1 could not be built" >&2
		return 1
	fi
	mv -f "$tmp/$1" "$dir/$1"
	echo "$2@$3" >"$dir/$1.version"
	rm -rf "$tmp"
}

# npm_tool NAME PACKAGE VERSION: a program of a package from npm, with Node.js beside
# it. The package lies in NAME.node; NAME is a script that starts it.
npm_tool() {
	if [ -x "$dir/$1" ] && [ "$(cat "$dir/$1.version" 2>/dev/null)" = "$2@$3" ]; then
		return 0
	fi
	command -v npm >/dev/null || { echo "install-tools: npm is needed to install $1" >&2; return 1; }
	echo "install-tools: installing $2 $3 into $dir" >&2
	tmp=$(mktemp -d "$dir/.build-$1.XXXXXX")
	if ! npm install --prefix "$tmp" --no-audit --no-fund --no-save --loglevel error "$2@$3" >&2; then
		rm -rf "$tmp"
		echo "install-tools: $1 could not be installed" >&2
		return 1
	fi
	rm -rf "$dir/$1.node"
	mv "$tmp" "$dir/$1.node"
	printf '#!/bin/sh\nexec node "%s/node_modules/.bin/%s" "$@"\n' "$dir/$1.node" "$1" >"$dir/.$1.new"
	chmod 755 "$dir/.$1.new"
	mv -f "$dir/.$1.new" "$dir/$1"
	echo "$2@$3" >"$dir/$1.version"
}

install_tool() {
	case $1 in
	azurite-blob) npm_tool azurite-blob azurite 3.35.0 ;;
	fake-gcs-server) go_tool fake-gcs-server github.com/fsouza/fake-gcs-server v1.56.1 ;;
	versitygw) go_tool versitygw github.com/versity/versitygw/cmd/versitygw v1.8.0 ;;
	minio) go_tool minio github.com/minio/minio v0.0.0-20260212201848-7aac2a2c5b7c ;;
	*)
		echo "install-tools: unknown tool $1" >&2
		return 2
		;;
	esac
}

[ $# -gt 0 ] || set -- versitygw azurite-blob fake-gcs-server
status=0
for tool; do
	for pause in 5 30 0; do # downloads fail now and then
		code=0
		install_tool "$tool" || code=$?
		[ "$code" -ne 0 ] && [ "$code" -ne 2 ] || break
		sleep "$pause"
	done
	[ "$code" -eq 0 ] || status=$code
done
[ "$status" -eq 0 ] && echo "$dir"
exit "$status"
