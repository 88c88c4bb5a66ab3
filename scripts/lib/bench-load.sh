# shellcheck shell=bash
# Sourced by bench.sh: programs that know nothing of swap, under a memory limit.
# shellcheck disable=SC2154 # build, scratch, raw and the parameters: common.sh, bench.sh

# go_build OUTPUT [LIMIT]: everything is compiled anew.
go_build() {
	local cache=$scratch/gocache limit=()
	rm -rf "$cache"
	[[ -z ${2:-} ]] || limit=(-limit "$2")
	GOCACHE=$cache "$build/benchrun" -o "$1" -pids "${served:-}" "${limit[@]}" -- \
		go build -p 2 -o "$scratch/built" "$build_package" || die "the build failed"
	rm -rf "$cache"
}

# redis_start: a server with data of 1.6 times its limit; $redis is its socket.
redis_start() {
	redis=$scratch/redis.sock
	local keys=$1 bytes=$2
	"$build/benchrun" -o "$scratch/redis.json" -limit "$load_limit" -- \
		redis-server --port 0 --unixsocket "$redis" --save "" --appendonly no --daemonize no --dir "$scratch" \
		--pidfile "$scratch/redis.pid" --logfile "$scratch/redis.log" &
	redis_job=$!
	on_exit redis_stop
	until_ok 10 redis-cli -s "$redis" ping || die "redis does not answer: $(tail -n 5 "$scratch/redis.log")"
	"$build/swapper" -resp -size "$bytes" | redis-cli -s "$redis" --pipe >"$scratch/redis.fill" || die "redis cannot be filled: $(cat "$scratch/redis.fill")"
	local have
	have=$(redis-cli -s "$redis" dbsize)
	((have == keys)) || die "redis holds $have keys of $keys"
}
redis_stop() {
	redis-cli -s "$redis" shutdown nosave >/dev/null 2>&1 || kill "$redis_job" 2>/dev/null || true
	wait "$redis_job" 2>/dev/null || true
}

# redis_get OUTPUT
redis_get() {
	# A key with its value and what Redis keeps of it takes 4200 bytes or so.
	local keys=$(($(numfmt --from=iec "$load_limit") * 16 / 10 / 4200))
	redis_start "$keys" $((keys * 4096))
	redis-benchmark -s "$redis" -q -n $((keys / 4)) -c 8 -r "$keys" GET key:__rand_int__ >/dev/null
	measure "$1" "$served $(redis-cli -s "$redis" info server | tr -d '\r' | awk -F: '$1 == "process_id" {print $2}')" \
		redis-benchmark -s "$redis" --csv -n "$redis_gets" -c 8 -r "$keys" GET key:__rand_int__ || die "redis-benchmark failed"
}

load() {
	may_swap load || return 0
	local all round name redis=1
	load_packages || true
	if ! have redis-server || ! have redis-benchmark; then
		absent redis-get "redis-server and redis-tools are not installed"
		redis=0
	fi
	mapfile -t all < <(swap_candidates)
	step "programs in $build_limit and $load_limit: go build $build_package, redis"
	go_build "$scratch/warm.json" # the sources and the compiler come into the page cache
	for ((round = 1; round <= rounds; round++)); do
		say "  round $round of $rounds"
		for name in "${all[@]}"; do
			scoped swapping "$name" go_build "$raw/load.go-build.$name.$round.json" "$build_limit"
		done
		((redis)) || continue
		for name in "${all[@]}"; do
			scoped swapping "$name" redis_get "$raw/load.redis-get.$name.$round.json"
		done
	done
}
