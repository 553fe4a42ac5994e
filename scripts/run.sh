#!/bin/sh
# Shows massif at work: builds it, makes a volume in a temporary directory, mounts
# it, unpacks the Go standard library's sources into it, lists and checksums them
# against the originals, and unmounts. Leaves nothing behind but bin/massif.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }
run() {
	echo "\$ $*"
	"$@"
}

sh scripts/setup.sh

say "Building bin/massif"
version=$(git describe --tags --always --dirty 2>/dev/null || echo devel)
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/massif-fs/massif/internal/cli.Version=$version" -o bin/massif ./cmd/massif
PATH=$root/bin:$PATH
run massif version

work=$(mktemp -d "${TMPDIR:-/tmp}/massif-run.XXXXXX")
MASSIF_HOME=$work/home
export MASSIF_HOME
mnt=$work/mnt
mkdir "$mnt"
cleanup() {
	massif umount --force "$mnt" >/dev/null 2>&1 || true
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say "Making and mounting a volume"
run massif volume create demo
run massif mount demo "$mnt"
run massif mounts

source=$(go env GOROOT)/src
files=$(find "$source" -type f | wc -l)
bytes=$(find "$source" -type f -printf '%s\n' | awk '{s += $1} END {printf "%d", s}')

# timed LABEL COMMAND...: runs the command and reports files and MiB a second.
timed() {
	label=$1
	shift
	begin=$(date +%s%N)
	"$@"
	took=$((($(date +%s%N) - begin) / 1000000))
	[ "$took" -gt 0 ] || took=1
	awk -v label="$label" -v files="$files" -v bytes="$bytes" -v ms="$took" \
		'BEGIN {printf "%-34s %6.2f s %9.0f files/s %8.1f MiB/s\n", label, ms/1000, files*1000/ms, bytes/1048576*1000/ms}'
}
unpack() { tar -C "$source" -cf - . | tar -C "$mnt/src" -xf -; sync -f "$mnt"; }
list() { [ "$(find "$mnt/src" -type f -printf '%s\n' | wc -l)" -eq "$files" ]; }
sums() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$2"; }

say "Working with $files files, $((bytes / 1048576)) MiB (the Go standard library)"
mkdir "$mnt/src"
timed "unpack and sync" unpack
timed "list with sizes" list
timed "checksum" sums "$mnt/src" "$work/there"

say "Again, after unmounting and mounting"
run massif umount "$mnt"
run massif mount demo "$mnt"
timed "checksum" sums "$mnt/src" "$work/again"
sums "$source" "$work/here"
if cmp -s "$work/here" "$work/there" && cmp -s "$work/here" "$work/again"; then
	echo "all $files files have the checksums of the originals"
else
	echo "the checksums differ from those of the originals" >&2
	exit 1
fi

say "What it cost"
run df -h "$mnt"
run massif volume df demo
run massif stats "$mnt"
run massif volume fsck demo
run massif umount "$mnt"
run massif volume delete demo --yes

say "Done. Next, for yourself:"
cat <<EOT
  export PATH=$root/bin:\$PATH
  massif volume create photos
  massif mount photos /mnt/photos
  massif stats /mnt/photos
  massif help
EOT
