# shellcheck shell=bash
# Sourced by bench.sh: what is measured, each with a file or device and the
# processes that serve it.
# shellcheck disable=SC2034,SC2154 # targets, pids: for bench-fio.sh; others: common.sh, bench.sh

# In the order in which they take turns.
names=()
declare -A targets pids
# candidate NAME TARGET [PIDS]
candidate() {
	names+=("$1")
	targets[$1]=$2
	pids[$1]=${3:-}
}
absent() { say "not measured: $1 ($2)"; }

# The kernel's zram, on a device that nobody uses.
kernel_zram=0
find_zram() {
	[[ -b /dev/zram0 ]] || modprobe zram 2>/dev/null || true
	if [[ -b /dev/zram0 && $(cat /sys/block/zram0/disksize) == 0 ]]; then
		kernel_zram=1
	else
		absent zram "no unused /dev/zram0"
	fi
}

# zram_start SIZE
zram_start() {
	echo lz4 >/sys/block/zram0/comp_algorithm
	echo "$1" >/sys/block/zram0/disksize
	on_exit zram_reset
}
zram_reset() { echo 1 >/sys/block/zram0/reset; }

# find_transports: those of the list that this binary has and this machine allows.
find_transports() {
	local wanted=$transports transport words
	transports=
	mkdir -p "$scratch/probe"
	for transport in ${wanted//,/ }; do
		if words=$("$build/zramfs" mount --null --no-standby --size 1M --transport "$transport" "$scratch/probe" 2>&1); then
			"$build/zramfs" umount "$scratch/probe"
			transports+="$transport "
		else
			absent "$transport" "$(tail -n 1 <<<"${words#zramfs: }")"
		fi
	done
	[[ -n $transports ]] || die "none of the transports $wanted can be had"
}

with_zram() {
	((kernel_zram)) || return 0
	zram_start "$disk_size"
	candidate zram /dev/zram0
}

with_tmpfs_loop() {
	local dev
	mkdir "$scratch/tmpfs"
	mount -t tmpfs -o "size=$disk_size" zramfs-bench "$scratch/tmpfs"
	on_exit umount "$scratch/tmpfs"
	truncate -s "$disk_size" "$scratch/tmpfs/disk"
	dev=$(losetup --find --show --direct-io=on --sector-size 4096 "$scratch/tmpfs/disk")
	on_exit losetup -d "$dev"
	candidate tmpfs-loop "$dev"
}

# nbdfuse_stop PID DIRECTORY: one that has not mounted yet gets a signal.
nbdfuse_stop() { fusermount3 -u "$2" 2>/dev/null || kill "$1"; }

with_nbdfuse() {
	if ! have nbdfuse || ! have nbdkit; then
		absent nbdfuse "nbdfuse and nbdkit are not installed"
		return
	fi
	mkdir "$scratch/nbd"
	nbdfuse "$scratch/nbd/disk" [ nbdkit memory "size=$disk_size" allocator=zstd ] >"$scratch/nbdfuse.log" 2>&1 &
	local pid=$!
	on_exit nbdfuse_stop "$pid" "$scratch/nbd"
	until_ok 10 test -f "$scratch/nbd/disk" || die "nbdfuse does not serve: $(cat "$scratch/nbdfuse.log")"
	candidate nbdfuse "$scratch/nbd/disk" "$pid $(pgrep -P "$pid" | tr '\n' ' ')"
}

# zramfs_mount NAME SIZE [FLAGS]: mounts at $scratch/NAME. What the machine does
# not allow is said once, by the first mount of a run.
zramfs_mount() {
	local name=$1 size=$2 words
	shift 2
	mkdir -p "$scratch/$name"
	words=$("$build/zramfs" mount --size "$size" "$@" "$scratch/$name" 2>&1) || die "mount of $name: $words"
	on_exit "$build/zramfs" umount "$scratch/$name"
	[[ -e $scratch/warned || -z $words ]] || printf '%s\n' "$words" | grep -v null: | tee "$scratch/warned" >&2 || true
}

# with_store NAME FLAGS…: a zramfs's file, and a loop device on a file of its own.
with_store() {
	local t=$1 dev
	shift
	zramfs_mount "$t" "$disk_size" "$@"
	candidate "$t" "$scratch/$t/dev/zram0" "$(daemon_pids "$scratch/$t" | tr '\n' ' ')"
	zramfs_mount "$t-loop" "$disk_size" "$@"
	dev=$("$build/zramfs" attach "$scratch/$t-loop")
	on_exit until_ok 10 "$build/zramfs" detach "$scratch/$t-loop" # udevd may look at it just now
	candidate "$t-loop" "$dev" "$(daemon_pids "$scratch/$t-loop" | tr '\n' ' ')"
}

# with_zramfs TRANSPORT: both, and both without a store.
with_zramfs() {
	local t=$1 served queue dev null
	with_store "$t" --transport "$t"
	dev=${targets[$t-loop]}
	zramfs_mount "$t-null" "$disk_size" --transport "$t" --null --no-standby
	served=$(daemon_pids "$scratch/$t-null" | tr '\n' ' ')
	candidate "$t-null" "$scratch/$t-null/dev/zram0" "$served"
	null=$(losetup --find --show --direct-io=on --sector-size 4096 "$scratch/$t-null/dev/zram0")
	on_exit losetup -d "$null"
	for queue in stable_writes wbt_lat_usec iostats; do # as attach has set them
		cat "/sys/block/${dev#/dev/}/queue/$queue" >"/sys/block/${null#/dev/}/queue/$queue" 2>/dev/null || true
	done
	candidate "$t-null-loop" "$null" "$served"
}

# measure OUTPUT PIDS COMMAND…: run it, and keep what it reports and the CPU time of all.
measure() {
	local out=$1 served=$2
	shift 2
	"$build/benchrun" -o "$out" -pids "$served" -- "$@"
}
