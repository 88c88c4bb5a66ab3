# shellcheck shell=bash
# Sourced by bench.sh: what grows with what: data stored, size of the disk,
# streams, writers.
# shellcheck disable=SC2154 # build, scratch, raw and the parameters: common.sh, bench.sh

# keep OUTPUT NAME VALUE…: a record of figures by name.
keep() {
	local out=$1 args=()
	shift
	while (($#)); do
		args+=("$(jq -n --arg k "$1" --argjson v "$2" '{($k): $v}')")
		shift 2
	done
	printf '%s\n' "${args[@]}" | jq -s '{report: add}' >"$out"
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }
calc() { awk "BEGIN {printf \"%.4f\", $1}"; }
memory_of_mount() { awk -v name="$2" '$1 == name {print $2}' "$scratch/$1/sys/block/zram0/zramfs/memory_stat"; }

# recovery MOUNT: milliseconds from the death of the worker to the first answer of the next.
recovery() {
	local dir=$scratch/$1 before
	before=$(crash_of "$dir" generations)
	kill_worker "$dir"
	until_ok 60 newer "$dir" "$before" || die "no worker took over on $1"
	calc "$(crash_of "$dir" last_recovery_us) / 1000"
}
crash_of() { awk -v name="$2" '$1 == name {print $2}' "$1/sys/block/zram0/zramfs/crash_stat"; }
newer() { (($(crash_of "$1" generations) > $2)); }

# io_us MOUNT PAGES FLAGS…: microseconds a page of corpusio on the file.
io_us() {
	local target=$1
	shift
	"$build/corpusio" -file "$target" "$@" | jq '.jobs[0] | 1e6 / (.read.iops + .write.iops)'
}

# stored_point TRANSPORT GIB ROUND
stored_point() {
	local start mount pages=$(($2 << 18)) report
	start=$(milliseconds)
	zramfs_mount point "$2G" --transport "$1"
	mount=$(($(milliseconds) - start))
	report=$("$build/swapper" -size "$2G" -device "$scratch/point/dev/zram0" -json) || die "$2 GiB did not come back from $1"
	keep "$raw/scaling.stored=$2G.$1.$3.json" \
		"mount, ms" "$mount" \
		"write, us a page" "$(jq '1e6 / .phases[0].pages_per_second' <<<"$report")" \
		"read, us a page" "$(jq '1e6 / .phases[1].pages_per_second' <<<"$report")" \
		"pool, bytes a page" "$(calc "$(memory_of_mount point pool) / $pages")" \
		"tables, bytes a page" "$(calc "$(memory_of_mount point tables) / $pages")" \
		"processes beside the pool, MiB" "$(calc "$(pss "$scratch/point") / 1024 - $(memory_of_mount point pool) / 1048576")" \
		"recovery, ms" "$(recovery point)"
}

# disk_point TRANSPORT SIZE ROUND: the same pages, spread over the whole disk.
disk_point() {
	local start mount us pages=16384
	start=$(milliseconds)
	zramfs_mount point "$2" --transport "$1"
	mount=$(($(milliseconds) - start))
	us=$(io_us "$scratch/point/dev/zram0" -size "$2" -depth 32 -rw randwrite -requests "$pages")
	keep "$raw/scaling.disk=$2.$1.$3.json" \
		"mount, ms" "$mount" \
		"write, us a page" "$us" \
		"tables, bytes a page" "$(calc "$(memory_of_mount point tables) / $pages")" \
		"processes beside the pool, MiB" "$(calc "$(pss "$scratch/point") / 1024 - $(memory_of_mount point pool) / 1048576")" \
		"recovery, ms" "$(recovery point)"
}

# streams_point TRANSPORT STREAMS ROUND
streams_point() {
	zramfs_mount point "$disk_size" --transport "$1" --streams "$2"
	keep "$raw/scaling.streams=$2.$1.$3.json" \
		"write, us a page" "$(io_us "$scratch/point/dev/zram0" -size "$io_size" -depth 32 -jobs 2 -rw randwrite -runtime "$runtime")" \
		"read, us a page" "$(io_us "$scratch/point/dev/zram0" -size "$io_size" -depth 32 -jobs 2 -rw randread -runtime "$runtime")" \
		"processes beside the pool, MiB" "$(calc "$(pss "$scratch/point") / 1024 - $(memory_of_mount point pool) / 1048576")"
}

# writers_point NAME WRITERS ROUND: NAME is a transport, or zram.
writers_point() {
	local target=/dev/zram0
	if [[ $1 == zram ]]; then
		zram_start "$disk_size"
	else
		zramfs_mount point "$disk_size" --transport "$1"
		target=$scratch/point/dev/zram0
	fi
	keep "$raw/scaling.writers=$2.$1.$3.json" \
		"write, us a page" "$(io_us "$target" -size "$io_size" -jobs "$2" -rw randwrite -runtime "$runtime")"
}

scaling() {
	local round point transport available
	available=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
	step "scaling: stored ${scale_stored}GiB, disks $scale_disks, streams $scale_streams, writers $scale_writers"
	for ((round = 1; round <= rounds; round++)); do
		say "  round $round of $rounds"
		for point in $scale_stored; do
			if ((point * 6 / 10 >= available)); then
				absent "$point GiB stored" "$available GiB of memory are free"
				continue
			fi
			for transport in $transports; do scoped stored_point "$transport" "$point" "$round"; done
		done
		for point in $scale_disks; do
			for transport in $transports; do scoped disk_point "$transport" "$point" "$round"; done
		done
		for point in $scale_streams; do
			for transport in $transports; do scoped streams_point "$transport" "$point" "$round"; done
		done
		for point in $scale_writers; do
			((!kernel_zram)) || scoped writers_point zram "$point" "$round"
			for transport in $transports; do scoped writers_point "$transport" "$point" "$round"; done
		done
	done
}
