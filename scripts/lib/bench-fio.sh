# shellcheck shell=bash
# Sourced by bench.sh: block I/O with fio, on files and through loop devices.
# shellcheck disable=SC2154 # build, scratch, raw and the parameters: common.sh, bench.sh

# A job is BS-qdDEPTH-jJOBS-DATA-RW: DATA is how many percent of it compress, or
# corpus. What the bars are measured with:
core_jobs() {
	local shape rw
	for shape in 4k-qd1-j1 4k-qd32-j1 4k-qd16-j2 1m-qd4-j1; do
		for rw in write read; do
			echo "$shape-66-$rw"
		done
	done
}

matrix_jobs() {
	local data bs depth jobs rw
	for data in 66 11 corpus; do
		for bs in 4k 1m; do
			for depth in 1 8 32; do
				for jobs in 1 2 4; do
					for rw in write read mixed; do
						echo "$bs-qd$depth-j$jobs-$data-$rw"
					done
				done
			done
		done
	done
}

# fio_job NAME JOB OUTPUT RUNTIME
fio_job() {
	local bs depth jobs data rw order=rand
	IFS=- read -r bs depth jobs data rw <<<"$2"
	depth=${depth#qd} jobs=${jobs#j}
	[[ $bs == 4k ]] || order=
	[[ $rw != mixed ]] || rw=rw
	if [[ $data == corpus ]]; then
		measure "$3" "${pids[$1]}" "$build/corpusio" -file "${targets[$1]}" -bs "$bs" -size "$io_size" -depth "$depth" \
			-jobs "$jobs" -rw "$order$rw" -runtime "$4" || die "corpusio: $2 failed on $1"
		return
	fi
	local engine=libaio
	((depth > 1)) || engine=psync
	TARGET=${targets[$1]} BS=$bs DEPTH=$depth JOBS=$jobs RW=$order$rw SIZE=$io_size RUNTIME=$4 DATA=$data ENGINE=$engine \
		measure "$3" "${pids[$1]}" fio --output-format=json scripts/fio/job.fio || die "fio: $2 failed on $1"
}

# prefill NAME DATA
prefill() {
	if [[ $2 == corpus ]]; then
		"$build/corpusio" -file "${targets[$1]}" -bs 1m -size "$io_size" -depth 4 -rw write \
			-requests $(($(numfmt --from=iec "${io_size^^}") >> 20)) >/dev/null
	else
		TARGET=${targets[$1]} SIZE=$io_size DATA=$2 fio --output-format=json --output="$scratch/prefill.json" scripts/fio/prefill.fio
	fi || die "the working set cannot be written to $1"
}

# block TITLE JOB…: rounds of all jobs, each on all candidates in turn; the
# round before the first warms up.
block() {
	local title=$1 jobs data job name round
	shift
	mapfile -t jobs < <(printf '%s\n' "$@" | grep -E -- "$only_jobs" || true)
	((${#jobs[@]})) || die "no job matches $only_jobs"
	with_zram
	with_tmpfs_loop
	with_nbdfuse
	local transport
	for transport in $transports; do
		with_zramfs "$transport"
	done
	for name in "${!also[@]}"; do
		# shellcheck disable=SC2086 # flags are words
		with_store "$name" ${also[$name]}
	done
	local turns=$((${#jobs[@]} * ${#names[@]}))
	step "$title: ${#jobs[@]} jobs on ${names[*]}"
	say "  about $(awk -v n="$turns" -v r="$rounds" -v s="${runtime%ms}" -v w="$warm" \
		'BEGIN {printf "%.0f", (n * (r * (s / 1000 + 0.5) + (w > 0 ? w / 1000 + 0.5 : 0))) / 60 + 0.5}') minutes"
	for data in 66 11 corpus; do
		printf '%s\n' "${jobs[@]}" | grep -q -- "-$data-" || continue
		for name in "${names[@]}"; do
			prefill "$name" "$data"
		done
		for ((round = warm > 0 ? 0 : 1; round <= rounds; round++)); do
			say "  data $data, round $round of $rounds"
			for job in "${jobs[@]}"; do
				[[ $job == *-"$data"-* ]] || continue
				for name in "${names[@]}"; do
					if ((round == 0)); then
						fio_job "$name" "$job" "$scratch/warm.json" "${warm}ms"
					else
						fio_job "$name" "$job" "$raw/fio.$job.$name.$round.json" "$runtime"
					fi
				done
			done
		done
	done
}
