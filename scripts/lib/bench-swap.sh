# shellcheck shell=bash
# Sourced by bench.sh: memory that does not fit, on the kernel's zram and on
# zramfs as swap.
# shellcheck disable=SC2154 # build, scratch, raw and the parameters: common.sh, bench.sh

# swapping NAME COMMAND…: COMMAND while NAME is the swap of the highest priority;
# $served are the processes of it. To be called scoped.
swapping() {
	local name=$1
	shift
	served=
	if [[ $name == zram ]]; then
		zram_start "$swap_disk"
		mkswap /dev/zram0 >/dev/null
		swapon --discard --priority 1000 /dev/zram0
		on_exit swapoff /dev/zram0
	else
		local flags=(--transport "$name")
		# shellcheck disable=SC2206 # flags are words
		[[ ! ${also[$name]:-} ]] || flags=(${also[$name]})
		"$build/zramfs" swapon --size "$swap_disk" --priority 1000 --name bench "${flags[@]}" >/dev/null 2>"$scratch/swapon.log" ||
			die "swapon on $name: $(cat "$scratch/swapon.log")"
		on_exit "$build/zramfs" swapoff --name bench
		served=$(daemon_pids /run/zramfs/bench | tr '\n' ' ')
	fi
	"$@"
}

# swap_candidates: kernel zram, each transport, and what --also named.
swap_candidates() {
	((!kernel_zram)) || echo zram
	# shellcheck disable=SC2086 # words
	printf '%s\n' $transports "${!also[@]}"
}

# may_swap WHAT: a cgroup to limit memory in, and no other swap that would be used first.
may_swap() {
	if ! memcg_writable; then
		absent "$1" "no memory cgroup to write to"
	elif awk 'NR > 1 && $5 >= 1000 {found = 1} END {exit !found}' /proc/swaps; then
		absent "$1" "swap of a priority of 1000 or more is on: swapoff it first"
	else
		return 0
	fi
	return 1
}

# over_limit NAME OUTPUT SIZE PROCESSES
over_limit() {
	measure "$2" "$served" "$build/swapper" -size "$3" -limit "$swap_limit" -procs "$4" -json ||
		die "swap on $1: pages wrong, or the run did not finish"
}

# swap CASE…: a case is TIMESx-pPROCESSES.
swap() {
	may_swap swap || return 0
	step "swap: $* of $swap_limit, real pages"
	local round name times procs each all
	mapfile -t all < <(swap_candidates)
	# Round 0 warms up, with little.
	for ((round = warm > 0 ? 0 : 1; round <= rounds; round++)); do
		say "  round $round of $rounds"
		for each in "$@"; do
			times=${each%%x-*} procs=${each##*-p}
			for name in "${all[@]}"; do
				if ((round == 0)); then
					scoped swapping "$name" over_limit "$name" "$scratch/warm.json" "$swap_limit" 1
				else
					scoped swapping "$name" over_limit "$name" "$raw/swap.$each.$name.$round.json" \
						$(($(numfmt --from=iec "$swap_limit") * times)) "$procs"
				fi
			done
		done
	done
}

# one_page_at_a_time: what the kernel reads beside the page that is asked for would hide what one takes.
one_page_at_a_time() {
	local before
	before=$(cat /proc/sys/vm/page-cluster)
	on_exit page_cluster "$before"
	page_cluster 0
}
page_cluster() { echo "$1" >/proc/sys/vm/page-cluster; }

# touches OUTPUT
touches() {
	# The limit is not reached; its cgroup is what the kernel can be told to reclaim.
	measure "$1" "$served" "$build/swapper" -latency -size "$touch_size" -limit 1G -json || die "touches of swapped pages failed"
}

latency() {
	may_swap latency || return 0
	step "swap-in: touches of $touch_size that the kernel was told to swap out"
	local round name all
	mapfile -t all < <(swap_candidates)
	one_page_at_a_time
	for ((round = 1; round <= rounds; round++)); do
		for name in "${all[@]}"; do
			scoped swapping "$name" touches "$raw/latency.swap-in.$name.$round.json"
		done
	done
}
