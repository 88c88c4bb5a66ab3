#!/usr/bin/env bash
# Every test: unit, race, crash points, integration on this machine and in a
# container. Installs what they need where it can.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"

# tests TITLE ARGUMENTS…: go test, one line for each test and package. What failed
# is said once more at the end, where a long log is read first.
tests() {
	step "$1"
	shift
	go test -v "$@" 2>&1 | awk '
		!/^=== / && !/^ +--- PASS/ && !/^PASS$/ && !/\[no test files\]$/
		/--- FAIL|^ +FAIL: |^panic:/ { failed = failed "\n" $0 }
		END { if (failed != "") print "\nfailed:" failed }'
}

# honest: three minutes of exchanging pages, after which memory must be as before.
# Time is all that it takes, so it goes beside what takes the CPUs.
honest() {
	ZRAMFS_HONEST_MINUTES=3 nice -n 15 go test -v -count=1 -timeout 15m -run 'MemoryHonest' ./test/integration >"$build/honest.log" 2>&1 &
	honest=$!
	on_exit tail --pid="$honest" -f /dev/null # it cleans up by itself
}

honest_end() {
	step "memory, after three minutes of exchanging pages"
	local code=0
	wait "$honest" || code=$?
	grep -v '^=== ' "$build/honest.log"
	return "$code"
}

# What a container changes: rights, devices, cgroups, its own /proc and /run. The
# rest is the same programs on the same kernel as below; ZRAMFS_LONG=1 runs it all.
in_container=(-run '^Test(BackingSurvives|Bad.*|Busy|Copy|CrashTold|Errno.*|FileSystems|Guards.*|KeeperKilled|KernelScripts|Killed|Ladder|MemLimit|MemoryComesBack|Modes|Null.*|PlainUser|Resize.*|RingRefused|RingSurviveFile|SaveRestore|SegmentsFollowTheData|Status|SurviveLoop|Swap|SwapOffOrphans|TwoDevices|Unlocked|Upgrade|WorkerKilled|Zramctl)$')
[[ ${ZRAMFS_LONG:-} == 1 ]] && in_container=()

mapfile -t units < <(go list ./... | grep -v '/test/integration')

test_packages || warn "tests that need these will say so."
step "go vet"
go vet ./...
tests "unit" "${units[@]}"
[[ $EUID -ne 0 ]] || honest
tests "race detector" -race -short "${units[@]}"
[[ -z ${honest:-} ]] || honest_end
tests "crash points" -tags crashpoints -run Crash ./pool ./blockdev ./internal/fuseconn ./internal/fusefs ./internal/keeper
tests "order of locks, audited promises" -tags invariants -short ./blockdev ./compress ./internal/invariants ./pool ./stable
step "guests whose only swap is zramfs"
guests=0
scripts/vm.sh --short || guests=$?
if ((guests == 4)); then
	warn "guests were too slow, and nothing else was wrong. The host's clock judges that, and others may have used the host: they run once more."
	guests=0
	scripts/vm.sh --short || guests=$?
fi
case $guests in
0) ;;
77) warn "left out: it needs what is named above." ;;
*) exit "$guests" ;;
esac
if [[ -d test/integration ]]; then
	step "integration, in a container"
	if [[ $EUID -eq 0 ]] || docker info >/dev/null 2>&1; then
		contained=0
		scripts/integration.sh "${in_container[@]}" || contained=$?
		case $contained in
		0) ;;
		77) warn "left out: it needs what is named above." ;;
		*) exit "$contained" ;;
		esac
	else
		warn "left out: it needs root, or a Docker engine that this user may use."
	fi
	tests "integration, on this machine" -count=1 -timeout 20m ./test/integration/...
fi
