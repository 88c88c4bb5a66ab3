# shellcheck shell=bash
# Sourced by the scripts: words for the user, cleanup, what the machine has.
# Sets `root` (of the source tree) and goes there.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
# Where mkfs and dockerd are though a user's PATH says no, and Go though sudo's says no.
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
build=$root/build
mkdir -p "$build"

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { warn "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# on_exit COMMAND…: run it when the script ends, however it ends, last one first.
# A script that could not clean up has failed.
deferred=()
on_exit() { deferred+=("$(printf '%q ' "$@")"); }
run_deferred() {
	local code=$? i
	trap - EXIT
	trap '' INT TERM HUP
	for ((i = ${#deferred[@]} - 1; i >= 0; i--)); do
		eval "${deferred[i]}" || { warn "cleanup failed: ${deferred[i]}"; ((code)) || code=1; }
	done
	exit "$code"
}
arm() {
	trap run_deferred EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}
arm

# What sudo has made here is of who called it, who could not build any more.
if [[ $EUID -eq 0 && ${SUDO_UID:-0} -ne 0 ]]; then on_exit chown -hR "$SUDO_UID:${SUDO_GID:-}" "$build"; fi

# scoped COMMAND…: what it defers is done when it ends, not when the script does.
scoped() (
	deferred=()
	arm
	"$@"
)

# scratch_dir: a directory of this run, named in $scratch, removed at its end.
scratch_dir() {
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/zramfs.XXXXXX")
	on_exit rm -rf "$scratch"
}

# until_ok SECONDS COMMAND…: try until it succeeds.
until_ok() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
		sleep 0.1
	done
}

# build_static NAME PACKAGE: a binary that needs nothing of the machine, at build/NAME.
build_static() {
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$build/$1" "$2"
}

# memcg_writable: can this process make memory cgroups?
memcg_writable() {
	local top probe
	top=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ {print $2; exit}' /proc/self/mounts)
	[[ -n $top ]] || top=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/self/mounts)
	[[ -n $top ]] || return 1
	probe=$top/zramfs-probe-$$
	mkdir "$probe" 2>/dev/null && rmdir "$probe"
}
