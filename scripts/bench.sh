#!/usr/bin/env bash
# zramfs beside its peers: kernel zram, a loop device on tmpfs, and nbdfuse with
# nbdkit's zstd memory disk. All candidates take turns, round after round, and a
# ratio is taken within a round. What a machine lacks is left out, and it is said.
#
#     scripts/bench.sh [--set SET,SET] [--rounds N] [--runtime SECONDS] [--transports percpu,ring] [--jobs REGEXP] [--short]
#                      [--also 'NAME=FLAGS']…
#
# Sets: quick (default, a quarter of an hour), fio, swap, latency, load, scaling,
# crash, memory, stored, all. --jobs chooses jobs of quick and fio by name, such as
# 4k-qd32-j1-66-write. --also takes one more zramfs into quick, fio, swap, latency and load, made
# with these flags of zramfs mount and swapon, as in --also 'minlz=--algorithm minlz'.
# --short runs a little of everything in a minute; its figures mean nothing.
# Results: build/bench.txt, build/bench.json, build/bench.html, raw ones in build/bench/.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"
# shellcheck source=scripts/lib/zramfs.sh
source "$root/scripts/lib/zramfs.sh"
# shellcheck source=scripts/lib/stored.sh
source "$root/scripts/lib/stored.sh"
# shellcheck source=scripts/lib/bench-candidates.sh
source "$root/scripts/lib/bench-candidates.sh"
# shellcheck source=scripts/lib/bench-fio.sh
source "$root/scripts/lib/bench-fio.sh"
# shellcheck source=scripts/lib/bench-swap.sh
source "$root/scripts/lib/bench-swap.sh"
# shellcheck source=scripts/lib/bench-load.sh
source "$root/scripts/lib/bench-load.sh"
# shellcheck source=scripts/lib/bench-memory.sh
source "$root/scripts/lib/bench-memory.sh"
# shellcheck source=scripts/lib/bench-scaling.sh
source "$root/scripts/lib/bench-scaling.sh"
# shellcheck source=scripts/lib/bench-crash.sh
source "$root/scripts/lib/bench-crash.sh"

# Parameters; the parts above read them.
sets=quick
rounds=5
runtime=1000ms
warm=300 # ms of a job in the round that warms up; 0: no such round
transports=percpu,ring
declare -A also=() # flags, by name
only_jobs=.
disk_size=1G
io_size=512m
swap_disk=2G
swap_limit=256M
touch_size=128M
load_limit=128M
build_limit=256M
build_package=./cmd/zramfs
redis_gets=200000
memory_size=1G
crash_kills=10
crash_upgrades=3
crash_stored="0 1 4"
crash_runtime=10s
scale_stored="1 2 4 8 16"
scale_disks="1G 16G 256G 4T 16T"
scale_streams="1 2 4 8"
scale_writers="1 4 16 64"
short=0
raw=$build/bench

usage() { sed -n '2,15s/^# \{0,1\}//p' "$0"; }

be_short() {
	short=1 rounds=1 runtime=200ms warm=0 disk_size=256M io_size=64m swap_disk=512M swap_limit=48M touch_size=16M
	load_limit=32M build_limit=224M build_package=./internal/percpu redis_gets=5000 memory_size=64M
	crash_kills=2 crash_upgrades=1 crash_stored=0 crash_runtime=2s
	scale_stored=1 scale_disks="1G 16T" scale_streams="1 2" scale_writers="1 16"
}

parse() {
	while (($#)); do
		case $1 in
		--set) sets=$2; shift ;;
		--rounds) rounds=$2; shift ;;
		--runtime) runtime=$(awk -v s="$2" 'BEGIN {printf "%d", s * 1000}')ms; shift ;;
		--transports) transports=$2; shift ;;
		--jobs) only_jobs=$2; shift ;;
		--also)
			[[ $2 =~ ^[a-z][a-z0-9.]*=- ]] || die "--also $2: expected NAME=FLAGS, as in minlz=--algorithm minlz"
			also[${2%%=*}]=${2#*=}
			shift ;;
		--short) be_short ;;
		-h | --help) usage; exit 0 ;;
		*) usage >&2; exit 2 ;;
		esac
		shift
	done
	[[ $sets != all ]] || sets=fio,swap,latency,load,memory,scaling,crash
	local each
	for each in ${sets//,/ }; do
		case $each in
		quick | fio | swap | latency | load | scaling | crash | memory | stored) ;;
		*) die "--set $each: expected some of quick fio swap latency load scaling crash memory stored all" ;;
		esac
	done
}

# facts: what a reader of the figures must know.
facts() {
	jq -n --arg kernel "$(uname -r)" --argjson cpus "$(nproc)" --argjson rounds "$rounds" --arg runtime "$runtime" \
		--arg load "$(cut -d' ' -f1 /proc/loadavg)" --arg sets "$sets" --arg swap_limit "$swap_limit" \
		--argjson page_cluster "$(cat /proc/sys/vm/page-cluster)" --arg version "$("$build/zramfs" version | head -n 1)" \
		'$ARGS.named' >"$raw/facts.json"
}

quick() {
	local jobs
	mapfile -t jobs < <(core_jobs)
	((!short)) || only_jobs='(4k-qd32|1m)'
	scoped block "block I/O" "${jobs[@]}"
	scoped swap 4x-p1
	scoped latency
	scoped memory
}

all_of_fio() {
	local jobs
	mapfile -t jobs < <(core_jobs; matrix_jobs)
	((!short)) || jobs=(4k-qd8-j2-11-mixed 4k-qd1-j1-corpus-write 1m-qd8-j1-corpus-read)
	scoped block "block I/O" "${jobs[@]}"
}

main() {
	parse "$@"
	[[ $EUID -eq 0 ]] || die "needs root: loop devices, mounts, swap"
	bench_packages
	scratch_dir
	rm -rf "$raw"
	mkdir -p "$raw"
	local program each
	build_static zramfs ./cmd/zramfs
	for program in swapper benchrun corpusio benchtable; do
		build_static "$program" "./test/$program"
	done
	find_zram
	find_transports
	facts
	for each in ${sets//,/ }; do
		case $each in
		quick) quick ;;
		fio) all_of_fio ;;
		swap) scoped swap 2x-p1 4x-p1 2x-p4 4x-p4 ;;
		stored) scoped stored | tee "$build/stored.txt" ;;
		*) scoped "$each" ;;
		esac
	done
	[[ $sets != stored ]] || return 0
	step "results (medians of $rounds rounds)"
	"$build/benchtable" -json "$build/bench.json" -html "$build/bench.html" "$raw" | tee "$build/bench.txt"
	say "charts: build/bench.html"
}

main "$@"
