# shellcheck shell=bash
# Sourced by bench.sh: what the same real pages take under each algorithm, as
# they are written and after compaction.
# shellcheck disable=SC2154 # build, scratch, memory_size, kernel_zram: bench.sh, bench-candidates.sh

# stored_row NAME DIRECTORY: what mm_stat says there now, before and after compaction.
stored_row() {
	local orig compr used
	read -r orig compr used _ <"$2/mm_stat"
	[[ -s $scratch/first ]] || echo "$used" >"$scratch/first" # a file: rows may be of subshells
	echo 1 >"$2/compact"
	local compact
	read -r _ _ compact _ <"$2/mm_stat"
	awk -v name="$1" -v orig="$orig" -v compr="$compr" -v used="$used" -v compact="$compact" -v first="$(<"$scratch/first")" 'BEGIN {
		printf "%-24s %8d %8d %8d %8.3f %8d %8.3f\n", name, orig / 2^20, compr / 2^20, used / 2^20, used / first, compact / 2^20, compact / first
	}'
}

stored_zram() {
	local algorithm
	for algorithm in lz4 lzo-rle; do
		grep -qw -- "$algorithm" /sys/block/zram0/comp_algorithm || continue
		echo "$algorithm" >/sys/block/zram0/comp_algorithm
		echo "$memory_size" >/sys/block/zram0/disksize
		"$build/swapper" -size "$memory_size" -device /dev/zram0 >/dev/null
		stored_row "kernel zram, $algorithm" /sys/block/zram0
		echo 1 >/sys/block/zram0/reset
	done
}

# stored_zramfs NAME ALGORITHM [SECONDARY-PARAMETERS]
stored_zramfs() {
	local dir=$scratch/stored/sys/block/zram0
	mkdir -p "$scratch/stored"
	"$build/zramfs" mount --size 1M "$scratch/stored"
	on_exit "$build/zramfs" umount "$scratch/stored"
	echo 1 >"$dir/reset"
	echo "$2" >"$dir/comp_algorithm"
	if [[ -n ${3:-} ]]; then
		echo "${3%% *} priority=1" >"$dir/recomp_algorithm"
		echo "$3 priority=1" >"$dir/algorithm_params"
	fi
	echo "$memory_size" >"$dir/disksize"
	"$build/swapper" -size "$memory_size" -device "$scratch/stored/dev/zram0" >/dev/null
	if [[ -n ${3:-} ]]; then
		echo all >"$dir/idle"
		echo "type=idle priority=1" >"$dir/recompress"
	fi
	stored_row "$1" "$dir"
}

stored() {
	step "stored: $memory_size of real pages, in MiB; ratios are to the first row's as written"
	printf '%-24s %8s %8s %8s %8s %8s %8s\n' "" orig compr used ratio compact ratio
	((!kernel_zram)) || stored_zram
	local algorithm
	for algorithm in lz4 minlz zstd; do
		scoped stored_zramfs "zramfs, $algorithm" "$algorithm"
	done
	scoped stored_zramfs "lz4, then zstd(3)" lz4 "algo=zstd level=3"
	scoped stored_zramfs "lz4, then zstd(12)" lz4 "algo=zstd level=12"
	scoped stored_zramfs "lz4, then brotli" lz4 "algo=brotli level=1"
}
