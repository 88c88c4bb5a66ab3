#!/usr/bin/env bash
# A program with 1 GiB of real data runs in 256 MiB of memory, with zramfs as
# its swap, and every page of it is verified. Leaves nothing behind.
# DEMO_SIZE and DEMO_LIMIT change the two sizes.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/zramfs.sh
source "$root/scripts/lib/zramfs.sh"

size=${DEMO_SIZE:-1G}
limit=${DEMO_LIMIT:-256M}
name=demo
mnt=/run/zramfs/$name

# check_machine names everything that is missing, not only the first thing.
check_machine() {
	local missing=()
	have go || missing+=("Go: install it; if you have it and sudo does not find it: sudo env PATH=\"\$PATH\" make demo")
	[[ $EUID -eq 0 ]] || missing+=("root: run 'sudo make demo' (swapon, loop devices and cgroups need it)")
	[[ -c /dev/fuse ]] || missing+=("/dev/fuse: 'modprobe fuse'; in a container: '--device /dev/fuse --cap-add SYS_ADMIN'")
	[[ -c /dev/loop-control ]] || missing+=("loop devices: 'modprobe loop'; in a container: pass /dev/loop-control and /dev/loop*")
	if [[ $EUID -eq 0 ]] && ! memcg_writable; then
		missing+=("a memory cgroup to write to: boot with 'cgroup_enable=memory'; in a container: mount /sys/fs/cgroup read-write")
	fi
	((${#missing[@]})) || return 0
	warn "this machine lacks:"
	printf '  - %s\n' "${missing[@]}" >&2
	exit 1
}

# watch_memory FILE: while the demo runs, keep the fullest moment of mm_stat.
watch_memory() {
	local most=-1 orig rest
	while sleep 0.5; do
		read -r orig rest <"$mnt/sys/block/zram0/mm_stat" || continue
		if ((orig > most)); then
			most=$orig
			printf '%s %s %s\n' "$orig" "$rest" "$(pss "$mnt")" >"$1"
		fi
	done 2>/dev/null
}

# row LABEL BYTES NOTE
row() { printf '  %-26s %7d MiB   %s\n' "$1" "$((($2 + (1 << 19)) >> 20))" "$3"; }

# memory FILE: where it went, at the fullest moment.
memory() {
	local orig compr used same huge pss
	read -r orig compr used _ _ same _ huge _ pss <"$1"
	say ""
	say "Memory, when most was swapped out:"
	row "swapped out" "$orig" "$((orig / 4096)) pages, $same of them same-filled"
	row "compressed to" "$compr" "$huge pages did not compress and are kept whole"
	row "kept in (mem_used_total)" "$used" "ratio $(awk -v a="$orig" -v b="$used" 'BEGIN {printf "%.2f", b ? a / b : 0}')"
	((pss)) && row "all of zramfs (Pss)" "$((pss << 10))" "the pool and its reserve, tables, buffers, processes"
	return 0
}

main() {
	check_machine
	say "zramfs demo: $size of real memory pages in $limit of RAM; swap is a compressed file in RAM."
	say "building…"
	build_static zramfs ./cmd/zramfs
	build_static swapper ./test/swapper
	scratch_dir

	on_exit cleanup_swap
	local text devices
	text=$("$build/zramfs" swapon --size 2G --priority 1000 --name $name)
	mapfile -t devices <<<"$text"
	say "swap is on ${#devices[@]} loop devices, ${devices[0]} and on, each on a segment of $mnt/dev/zram0; running…"
	watch_memory "$scratch/mm" &
	on_exit kill $!

	local code=0
	"$build/swapper" -size "$size" -limit "$limit" -progress >"$scratch/report" || code=$?
	say ""
	cat "$scratch/report"
	[[ ! -s $scratch/mm ]] || memory "$scratch/mm"
	say ""
	case $code in
	0) say "Every page came back as it was written." ;;
	1) say "PAGES CAME BACK WRONG: this must not happen. Please report it with the lines above." ;;
	*) say "The run did not finish." ;;
	esac
	return "$code"
}

cleanup_swap() {
	[[ ! -d $mnt ]] || "$build/zramfs" swapoff --name $name
}

main
