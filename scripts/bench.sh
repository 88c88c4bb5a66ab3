#!/usr/bin/env bash
# zramfs beside its peers: kernel zram, a loop device on tmpfs, and nbdfuse with
# nbdkit's zstd memory disk. Every job runs on all of them in turn, so that a
# ratio compares neighbours in time; the tables show medians over the rounds.
# The peers that a machine lacks are left out, and it is said which.
#
#     scripts/bench.sh [--rounds N] [--runtime SECONDS] [--short] [--only block|swap|memory|stored]
#
# stored is done only when it is asked for: what each algorithm makes of 1 GiB.
# Results: build/bench.txt, build/bench.json, fio's own in build/bench/.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"
# shellcheck source=scripts/lib/zramfs.sh
source "$root/scripts/lib/zramfs.sh"
# shellcheck source=scripts/lib/stored.sh
source "$root/scripts/lib/stored.sh"

rounds=5
runtime=2
swap_size=1G
swap_limit=256M
memory_size=1G
only=
jobs=(4k-qd1 4k-qd32 4k-2x16 1m-qd4)
raw=$build/bench
export RUNTIME TARGET

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }

parse() {
	while (($#)); do
		case $1 in
		--rounds) rounds=$2; shift ;;
		--runtime) runtime=$2; shift ;;
		--only) only=$2; shift ;;
		--short) rounds=1 runtime=1 swap_size=192M swap_limit=64M memory_size=128M ;;
		-h | --help) usage; exit 0 ;;
		*) usage >&2; exit 2 ;;
		esac
		shift
	done
	RUNTIME=$runtime
}

# Candidates, in the order of the tables; targets[name] is the file or device.
names=()
declare -A targets
candidate() { names+=("$1"); targets[$1]=$2; }
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

with_zram() {
	((kernel_zram)) || return 0
	zram_start 1G
	candidate zram /dev/zram0
}

with_tmpfs_loop() {
	local dev
	mkdir "$scratch/tmpfs"
	mount -t tmpfs -o size=1G zramfs-bench "$scratch/tmpfs"
	on_exit umount "$scratch/tmpfs"
	truncate -s 1G "$scratch/tmpfs/disk"
	dev=$(losetup --find --show --direct-io=on --sector-size 4096 "$scratch/tmpfs/disk")
	on_exit losetup -d "$dev"
	candidate tmpfs-loop "$dev"
}

with_nbdfuse() {
	if ! have nbdfuse || ! have nbdkit; then
		absent nbdfuse "nbdfuse and nbdkit are not installed"
		return
	fi
	mkdir "$scratch/nbd"
	nbdfuse "$scratch/nbd/disk" [ nbdkit memory size=1G allocator=zstd ] >"$scratch/nbdfuse.log" 2>&1 &
	until_ok 10 test -f "$scratch/nbd/disk" || die "nbdfuse does not serve: $(cat "$scratch/nbdfuse.log")"
	on_exit fusermount3 -u "$scratch/nbd"
	candidate nbdfuse "$scratch/nbd/disk"
}

# zramfs_mount NAME SIZE: mounts at $scratch/NAME.
zramfs_mount() {
	mkdir -p "$scratch/$1"
	"$build/zramfs" mount --size "$2" "$scratch/$1"
	on_exit "$build/zramfs" umount "$scratch/$1"
}

with_zramfs() {
	local dev
	zramfs_mount file 1G
	candidate zramfs "$scratch/file/dev/zram0"
	zramfs_mount loop 1G
	dev=$("$build/zramfs" attach "$scratch/loop")
	on_exit "$build/zramfs" detach "$scratch/loop"
	candidate zramfs-loop "$dev"
}

# fio_on NAME JOB SECTION OUTPUT
fio_on() {
	TARGET=${targets[$1]} fio --output-format=json --output="$4" --section="$3" "scripts/fio/$2.fio" ||
		die "fio $2 $3 failed on $1"
}

block() {
	local round job rw name
	with_zram
	with_tmpfs_loop
	with_nbdfuse
	with_zramfs
	step "block I/O: ${names[*]}"
	for name in "${names[@]}"; do
		fio_on "$name" prefill prefill "$scratch/prefill.json"
	done
	for ((round = 1; round <= rounds; round++)); do
		for job in "${jobs[@]}"; do
			for rw in write read; do
				say "  round $round of $rounds: $job $rw"
				for name in "${names[@]}"; do
					fio_on "$name" "$job" "$rw" "$raw/block.$job.$rw.$name.$round.json"
				done
			done
		done
	done
}

# load NAME ROUND: the swap load on whatever is swap now.
load() {
	"$build/swapper" -size "$swap_size" -limit "$swap_limit" -json >"$raw/swap.$1.$2.json" ||
		die "swap on $1: pages wrong, or the run did not finish (see $raw/swap.$1.$2.json)"
}

swap_zram() {
	zram_start 2G
	mkswap /dev/zram0 >/dev/null
	swapon --discard --priority 1000 /dev/zram0
	on_exit swapoff /dev/zram0
	load zram "$1"
}

swap_zramfs() {
	"$build/zramfs" swapon --size 2G --priority 1000 --name bench >/dev/null
	on_exit "$build/zramfs" swapoff --name bench
	load zramfs "$1"
}

swap() {
	local round
	if ! memcg_writable; then
		absent swap "no memory cgroup to write to"
		return
	fi
	step "swap: $swap_size of real pages in $swap_limit"
	for ((round = 1; round <= rounds; round++)); do
		say "  round $round of $rounds"
		((!kernel_zram)) || scoped swap_zram "$round"
		scoped swap_zramfs "$round"
	done
}

# memory_of NAME MM_STAT PSS_KIB
memory_of() {
	local orig compr used
	read -r orig compr used _ <"$2"
	printf '{"orig_data_size": %d, "compr_data_size": %d, "mem_used_total": %d, "pss": %d}\n' \
		"$orig" "$compr" "$used" "$(($3 << 10))" >"$raw/memory.$1.1.json"
}

memory_zram() {
	zram_start "$memory_size"
	"$build/swapper" -size "$memory_size" -device /dev/zram0 >/dev/null
	memory_of zram /sys/block/zram0/mm_stat 0
}

memory_zramfs() {
	zramfs_mount memory "$memory_size"
	"$build/swapper" -size "$memory_size" -device "$scratch/memory/dev/zram0" >/dev/null
	memory_of zramfs "$scratch/memory/sys/block/zram0/mm_stat" "$(pss "$scratch/memory")"
	"$build/zramfs" get "$scratch/memory" memory_stat >"$raw/memory_stat.txt" || true
}

memory() {
	step "memory: $memory_size of real pages"
	((!kernel_zram)) || scoped memory_zram
	scoped memory_zramfs
}

# facts: what a reader of the figures must know.
facts() {
	printf '{"kernel": "%s", "cpus": %d, "rounds": %d, "seconds_per_job": %s, "page_cluster": %d, "swap_size": "%s", "swap_limit": "%s"}\n' \
		"$(uname -r)" "$(nproc)" "$rounds" "$runtime" "$(cat /proc/sys/vm/page-cluster)" "$swap_size" "$swap_limit" >"$raw/facts.json"
}

main() {
	parse "$@"
	[[ $EUID -eq 0 ]] || die "needs root: loop devices, mounts, swap"
	bench_packages
	scratch_dir
	rm -rf "$raw"
	mkdir -p "$raw"
	build_static zramfs ./cmd/zramfs
	build_static swapper ./test/swapper
	find_zram
	facts
	local part
	if [[ $only == stored ]]; then
		stored | tee "$build/stored.txt"
		return
	fi
	for part in block swap memory; do
		[[ -n $only && $only != "$part" ]] || scoped "$part"
	done
	step "results (medians of $rounds)"
	go run ./test/benchtable -json "$build/bench.json" "$raw" | tee "$build/bench.txt"
}

main "$@"
