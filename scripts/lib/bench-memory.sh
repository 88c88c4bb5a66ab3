# shellcheck shell=bash
# Sourced by bench.sh: what the same real pages take, on the kernel's zram and here.
# shellcheck disable=SC2154 # build, scratch, raw and the parameters: common.sh, bench.sh

# memory_of NAME MM_STAT PSS_KIB ROUND
memory_of() {
	local orig compr used
	read -r orig compr used _ <"$2"
	printf '{"report": {"orig_data_size": %d, "compr_data_size": %d, "mem_used_total": %d, "pss": %d}}\n' \
		"$orig" "$compr" "$used" "$(($3 << 10))" >"$raw/memory.$memory_size.$1.$4.json"
}

memory_zram() {
	zram_start "$memory_size"
	"$build/swapper" -size "$memory_size" -device /dev/zram0 >/dev/null
	memory_of zram /sys/block/zram0/mm_stat 0 1
}

# memory_zramfs TRANSPORT
memory_zramfs() {
	zramfs_mount memory "$memory_size" --transport "$1"
	"$build/swapper" -size "$memory_size" -device "$scratch/memory/dev/zram0" >/dev/null
	memory_of "$1" "$scratch/memory/sys/block/zram0/mm_stat" "$(pss "$scratch/memory")" 1
	"$build/zramfs" get "$scratch/memory" memory_stat >"$raw/memory_stat.$1.txt" || true
}

# memory: once, since it does not vary.
memory() {
	step "memory: $memory_size of real pages"
	((!kernel_zram)) || scoped memory_zram
	local transport
	for transport in $transports; do
		scoped memory_zramfs "$transport"
	done
}
