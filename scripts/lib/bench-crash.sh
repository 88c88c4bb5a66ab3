# shellcheck shell=bash
# Sourced by bench.sh: how long nobody answers when a worker dies or is replaced
# by another program, and what kills cost a load.
# shellcheck disable=SC2154 # build, scratch, raw and the parameters: common.sh, bench.sh

# middle, longest: of the numbers on standard input, one a line.
middle() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
longest() { sort -g | tail -n 1; }

# standing_by DIR: a standby waits there.
standing_by() { [[ $(crash_of "$1" standby) == yes ]]; }

# crash_point TRANSPORT GIB ROUND: deaths and upgrades with so much stored.
crash_point() {
	local dir=$scratch/point size=$(($2 > 0 ? $2 : 1))G i
	zramfs_mount point "$size" --transport "$1"
	if (($2 > 0)); then
		"$build/swapper" -size "$2G" -device "$dir/dev/zram0" >/dev/null || die "$2 GiB did not come back from $1"
	fi
	: >"$scratch/deaths"
	for ((i = 0; i < crash_kills; i++)); do
		until_ok 60 standing_by "$dir" || die "no standby on $1"
		recovery point >>"$scratch/deaths"
		echo >>"$scratch/deaths"
	done
	: >"$scratch/upgrades"
	for ((i = 0; i < crash_upgrades; i++)); do
		"$build/zramfs" upgrade --json "$dir" | jq '.pause_us / 1000' >>"$scratch/upgrades"
	done
	keep "$raw/crash.stored=$2G.$1.$3.json" \
		"recovery, ms: median of $crash_kills" "$(grep . "$scratch/deaths" | middle)" \
		"recovery, ms: longest" "$(grep . "$scratch/deaths" | longest)" \
		"upgrade, ms: longest of $crash_upgrades" "$(longest <"$scratch/upgrades")"
}

# mixed NAME: requests a second of random reads and writes at depth 32.
mixed() {
	TARGET=${targets[$1]} BS=4k DEPTH=32 JOBS=1 RW=randrw SIZE=$io_size RUNTIME=$crash_runtime DATA=66 ENGINE=libaio \
		fio --output-format=json scripts/fio/job.fio | jq '.jobs[0] | .read.iops + .write.iops'
}

# kill_each_second DIR
kill_each_second() {
	while sleep 1; do
		kill_worker "$1" || true # it may have died just now
	done
}

# crash_load TRANSPORT ROUND
crash_load() {
	local dir=$scratch/point without with
	zramfs_mount point "$disk_size" --transport "$1"
	targets[point]=$dir/dev/zram0
	prefill point 66
	without=$(mixed point)
	kill_each_second "$dir" &
	on_exit kill $!
	with=$(mixed point) || die "a load did not survive kills on $1"
	keep "$raw/crash.kills=1s.$1.$2.json" "speed to that without kills" "$(calc "$with / $without")"
}

crash() {
	local round point transport
	step "crash: $crash_kills deaths and $crash_upgrades upgrades with $crash_stored GiB stored, and a kill each second"
	for ((round = 1; round <= rounds; round++)); do
		say "  round $round of $rounds"
		for transport in $transports; do
			for point in $crash_stored; do scoped crash_point "$transport" "$point" "$round"; done
			scoped crash_load "$transport" "$round"
		done
	done
}
