# Massif as a peer of mountbench, the reference harness with which other file
# systems were measured (see doc/benchmarks.md):
#
#   mountbench run -conf internal/bench/mountbench-peers.sh -work DIR -out R.jsonl -repeats 3
#   mountbench table -base ext4 R.jsonl
#
# $MASSIF names the program (default: massif on PATH). mountbench sets MNT and STATE.

peers="ext4 bindfs massif massif_shared"
programs="$(command -v "${MASSIF:-massif}") bindfs fusermount3 umount setsid"
MASSIF=${MASSIF:-massif}
export MASSIF_HOME=$STATE/home

# A plain directory of the disk: no start.

# bindfs: what FUSE itself costs, in C.
bindfs_setup() { mkdir -p "$STATE/src"; }
bindfs_start() { bindfs "$STATE/src" "$MNT"; }
bindfs_stop() { fusermount3 -u "$MNT" 2>/dev/null || umount "$MNT"; }

# A volume with embedded metadata and a directory store.
massif_setup() { "$MASSIF" volume create bench --store "file://$STATE/store"; }
massif_start() { "$MASSIF" mount bench "$MNT" --cache-dir "$STATE/cache" ${MASSIF_MOUNT_ARGS:-}; }
massif_stop() { "$MASSIF" umount "$MNT"; }
massif_wipe() { rm -rf "$STATE/cache"; }

# A shared volume: a mount through an admin and a metadata server on this machine, over
# TLS. The servers are no part of the mount's processor time and memory. $MASSIF_PORT and
# the port after it have to be free.
MASSIF_PORT=${MASSIF_PORT:-17443}
massif_shared_setup() {
	mkdir -p "$STATE/run"
	setsid env -u MNT "$MASSIF" serve all --dir "$STATE/server" --listen "localhost:$MASSIF_PORT" --meta-listen "localhost:$((MASSIF_PORT + 1))" \
		--store "file://$STATE/store" --volume bench >"$STATE/run/server.log" 2>&1 </dev/null &
	echo $! >"$STATE/run/server.pid"
	local i
	for i in $(seq 600); do
		! grep -q 'metadata server local on' "$STATE/run/server.log" || return 0
		kill -0 "$(cat "$STATE/run/server.pid")" || break
		sleep 0.05
	done
	cat "$STATE/run/server.log" >&2
	return 1
}
massif_shared_start() { "$MASSIF" mount "localhost:$MASSIF_PORT/bench" "$MNT" --cache-dir "$STATE/cache"; }
massif_shared_stop() { massif_stop; }
massif_shared_wipe() { massif_wipe; }
massif_shared_teardown() {
	local pid
	pid=$(cat "$STATE/run/server.pid")
	kill "$pid"
	while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}

# The same as massif, with messages by io_uring: root has to allow that.
massif_uring_allowed() { echo "$1" >/sys/module/fuse/parameters/enable_uring; }
massif_uring_setup() { massif_setup; }
massif_uring_start() { massif_uring_allowed Y && MASSIF_MOUNT_ARGS="-o transport=uring" massif_start; }
massif_uring_stop() { massif_stop && massif_uring_allowed N; }
massif_uring_wipe() { massif_wipe; }

# Embedded metadata, with the write-back journal.
massif_wb_setup() { massif_setup; }
massif_wb_start() { MASSIF_MOUNT_ARGS=--writeback massif_start; }
massif_wb_stop() { massif_stop; }
massif_wb_wipe() { massif_wipe; }

# JuiceFS with its embedded metadata engine, if it is there.
if command -v juicefs >/dev/null 2>&1; then
	peers="$peers juicefs juicefs_xattr"
	programs="$programs juicefs"
fi
juicefs_setup() {
	mkdir -p "$STATE/store" "$STATE/cache"
	juicefs format --trash-days 0 --storage file --bucket "$STATE/store/" "badger://$STATE/meta" bench
}
juicefs_start() {
	juicefs mount -d --no-usage-report --no-syslog --metrics 127.0.0.1:0 --backup-meta 0 --log "$STATE/juicefs.log" \
		--cache-dir "$STATE/cache" --free-space-ratio 0.01 "$@" "badger://$STATE/meta" "$MNT"
}
juicefs_stop() { juicefs umount "$MNT"; }
juicefs_wipe() { rm -rf "$STATE"/cache/*; }

# The same with extended attributes, which it has only when asked: "ls -l" then costs it
# a GETXATTR a file, as it does every file system that has them.
juicefs_xattr_setup() { juicefs_setup; }
juicefs_xattr_start() { juicefs_start --enable-xattr; }
juicefs_xattr_stop() { juicefs_stop; }
juicefs_xattr_wipe() { juicefs_wipe; }
