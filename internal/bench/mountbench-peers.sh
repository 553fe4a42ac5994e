# Massif as a peer of mountbench, the reference harness with which other file
# systems were measured (see doc/benchmarks.md):
#
#   mountbench run -conf internal/bench/mountbench-peers.sh -work DIR -out R.jsonl -repeats 3
#   mountbench table -base ext4 R.jsonl
#
# $MASSIF names the program (default: massif on PATH). mountbench sets MNT and STATE.

peers="ext4 bindfs massif"
programs="$(command -v "${MASSIF:-massif}") bindfs fusermount3 umount"
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

# The same with the write-back journal.
massif_wb_setup() { massif_setup; }
massif_wb_start() { MASSIF_MOUNT_ARGS=--writeback massif_start; }
massif_wb_stop() { massif_stop; }
massif_wb_wipe() { massif_wipe; }

# JuiceFS with its embedded metadata engine, if it is there.
if command -v juicefs >/dev/null 2>&1; then
	peers="$peers juicefs"
	programs="$programs juicefs"
fi
juicefs_setup() {
	mkdir -p "$STATE/store" "$STATE/cache"
	juicefs format --trash-days 0 --storage file --bucket "$STATE/store/" "badger://$STATE/meta" bench
}
juicefs_start() {
	juicefs mount -d --no-usage-report --no-syslog --metrics 127.0.0.1:0 --backup-meta 0 --log "$STATE/juicefs.log" \
		--cache-dir "$STATE/cache" --free-space-ratio 0.01 "badger://$STATE/meta" "$MNT"
}
juicefs_stop() { juicefs umount "$MNT"; }
juicefs_wipe() { rm -rf "$STATE"/cache/*; }
