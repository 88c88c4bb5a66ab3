# shellcheck shell=bash
# Sourced after common.sh: what a running zramfs says of itself.
# shellcheck disable=SC2154 # build: common.sh

# daemon_pids MOUNTPOINT: the processes that serve it.
daemon_pids() {
	"$build/zramfs" status --json "$1" 2>/dev/null |
		grep -oE '"(keeper|worker|standby)_pid": *[0-9]+' | grep -oE '[0-9]+$' | grep -vx 0 | sort -u
}

# kill_worker MOUNTPOINT: of a mount that nobody serves the worker is 0, and kill -9
# 0 would end this script and all that it started, with nothing cleared away.
kill_worker() {
	local pid
	pid=$("$build/zramfs" status --json "$1" | jq '.[0].worker_pid') || die "$1 has no status"
	if [[ ! $pid =~ ^[0-9]+$ ]] || ((pid <= 1)); then die "nobody serves $1"; fi
	kill -9 "$pid"
}

# pss MOUNTPOINT: memory of these processes in KiB, what they share counted once; 0 if unknown.
pss() {
	local pid
	for pid in $(daemon_pids "$1"); do
		cat "/proc/$pid/smaps_rollup" 2>/dev/null || true
	done | awk '/^Pss:/ {sum += $2} END {print sum + 0}'
}
