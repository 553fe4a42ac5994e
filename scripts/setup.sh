#!/bin/sh
# Installs what the tests and "make run" need and this machine has not: FUSE's
# helper, the programs that tests run on a mount, servers from packages. Quick when
# nothing is missing. Without root it says what is missing and goes on.
set -eu

# command:package
wanted="
fusermount3:fuse3
getfattr:attr
setfacl:acl
sqlite3:sqlite3
fio:fio
stress-ng:stress-ng
git:git
gcc:gcc
rsync:rsync
redis-server:redis-server
tar:tar
bindfs:bindfs
perl:perl
node:nodejs
npm:npm
"

missing=
for entry in $wanted; do
	command -v "${entry%%:*}" >/dev/null 2>&1 || missing="$missing ${entry##*:}"
done
# PostgreSQL keeps its server programs outside PATH.
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
# The race detector is C and needs headers.
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"

if [ -n "$missing" ]; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "setup: not installed here:$missing" >&2
		echo "setup: tests that need them are skipped; as root: apt-get install$missing" >&2
	elif ! command -v apt-get >/dev/null 2>&1; then
		echo "setup: not installed here:$missing; this is no Debian, so install them by hand" >&2
	else
		echo "setup: installing$missing" >&2
		export DEBIAN_FRONTEND=noninteractive
		# The packages' services shall not start: tests start their own servers. The
		# policy is taken back whatever happens.
		if [ ! -e /usr/sbin/policy-rc.d ]; then
			trap 'rm -f /usr/sbin/policy-rc.d' EXIT
			printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
			chmod 755 /usr/sbin/policy-rc.d
		fi
		# Another package manager may be at work, and mirrors have their moments.
		apt() { apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >&2 </dev/null; }
		# shellcheck disable=SC2086
		apt install -y --no-install-recommends $missing ||
			{ apt update && apt install -y --no-install-recommends $missing; } ||
			echo "setup: some packages could not be installed; tests that need them will say so" >&2
	fi
fi

if [ ! -e /dev/fuse ]; then
	[ "$(id -u)" -eq 0 ] && { modprobe fuse 2>/dev/null || mknod -m 666 /dev/fuse c 10 229 2>/dev/null || true; }
	[ -e /dev/fuse ] || echo "setup: there is no /dev/fuse: nothing can be mounted here" >&2
fi
# Debian's own rule: everybody may open the device, fusermount3 decides the rest.
if [ "$(id -u)" -eq 0 ] && [ -e /dev/fuse ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
	chmod 666 /dev/fuse || true
fi
