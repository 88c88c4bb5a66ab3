# shellcheck shell=bash
# Sourced after common.sh: Debian packages that tests and benchmarks use.
# shellcheck disable=SC2154 # build: common.sh

# packages_for COMMAND:PACKAGE…: install the packages whose command is missing,
# or say which they are.
packages_for() {
	local pair missing=()
	for pair in "$@"; do
		have "${pair%%:*}" || missing+=("${pair##*:}")
	done
	((${#missing[@]})) || return 0
	mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
	if [[ $EUID -ne 0 ]] || ! have apt-get; then
		warn "missing: ${missing[*]} (names of Debian packages)."
		warn "Install them, or run this as root on Debian or Ubuntu, where it installs them itself."
		return 1
	fi
	say "installing ${missing[*]}"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >"$build/apt.log" 2>&1 ||
		{ tail -n 20 "$build/apt.log" >&2; return 1; }
}

test_packages() {
	packages_for fio:fio fusermount3:fuse3 mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs mkfs.ext4:e2fsprogs \
		losetup:util-linux mkswap:util-linux swapon:mount jq:jq man:man-db fuser:psmisc ps:procps zstd:zstd lz4:lz4 brotli:brotli
}

container_packages() {
	packages_for dockerd:docker.io docker:docker.io mmdebstrap:mmdebstrap || return 1
	# Newer Debian packages the client apart from the engine.
	have docker || packages_for docker:docker-cli
}

bench_packages() {
	packages_for fio:fio jq:jq losetup:util-linux mkswap:util-linux swapon:mount \
		nbdkit:nbdkit nbdfuse:libnbd-bin fusermount3:fuse3 pgrep:procps
}

load_packages() { packages_for redis-server:redis-server redis-benchmark:redis-tools; }

lint_packages() { packages_for shellcheck:shellcheck; }
