# shellcheck shell=bash
# Sourced after common.sh: a Docker engine, a base image where none can be pulled,
# and what a container leaves.
# shellcheck disable=SC2154 # build, scratch: common.sh

# docker_engine: use the engine that runs, or start one of our own that ends with this script.
docker_engine() {
	have docker || die "docker is missing (Debian: docker.io)"
	docker info >/dev/null 2>&1 && return
	[[ $EUID -eq 0 ]] || die "no Docker engine answers, and only root can start one"
	have dockerd || die "no Docker engine answers, and dockerd is missing (Debian: docker.io)"
	local driver
	for driver in overlay2 vfs; do
		start_engine "$driver" && return
	done
	tail -n 20 "$scratch/docker.log" >&2
	die "no Docker engine could be started"
}

# start_engine DRIVER: everything it writes lies in $scratch. It gets no network, since no container of ours needs one.
start_engine() {
	local dir=$scratch/docker-$1
	mkdir -p "$dir"
	dockerd --storage-driver "$1" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
		--host "unix://$dir/sock" --bridge=none --iptables=false --ip6tables=false >"$scratch/docker.log" 2>&1 &
	on_exit stop_engine $! "$dir"
	export DOCKER_HOST=unix://$dir/sock
	local tries
	for ((tries = 0; tries < 300; tries++)); do
		docker info >/dev/null 2>&1 && return
		kill -0 $! 2>/dev/null || return
		sleep 0.1
	done
	return 1
}

# stop_engine PID DIRECTORY
stop_engine() {
	kill "$1" 2>/dev/null || return 0
	wait "$1" 2>/dev/null || true
	local mnt
	awk -v dir="$2/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | sort -r | while read -r mnt; do
		umount "$mnt" || true
	done
}

test_base=zramfs-test-base
# What the tests use inside the container.
test_tools=e2fsprogs,xfsprogs,btrfs-progs,util-linux,mount,fio,procps,psmisc,jq,fuse3,zstd

# base_image: a system with the tools of the tests: made here where mmdebstrap is, else from Debian's image.
base_image() {
	docker image inspect "$test_base" >/dev/null 2>&1 && return
	if [[ $EUID -eq 0 ]] && have mmdebstrap; then
		local tar=$build/test-base.tar
		if [[ ! -s $tar ]]; then
			say "making a base image (once; half a minute)…"
			mmdebstrap --quiet --format=tar --variant=minbase --include="$test_tools" bookworm "$tar.new"
			mv "$tar.new" "$tar"
		fi
		docker import "$tar" "$test_base" >/dev/null
	else
		docker build --quiet --network host -t "$test_base" - <<-END >/dev/null
			FROM debian:bookworm-slim
			RUN apt-get update && apt-get install -y --no-install-recommends ${test_tools//,/ }
		END
	fi
}

# loops: loop devices on a disk of a test, or on one whose mount is gone: other
# programs may attach and swap meanwhile. The kernel's own /dev/zram0 is none.
loops() {
	local dev inode file
	losetup -n -O NAME,BACK-INO,BACK-FILE | while read -r dev inode file; do
		case ${file% (deleted)} in
		*/zramfs-test-*/dev/zram[0-9]* | /run/zramfs/itest-*/dev/zram[0-9]*) echo "$dev" ;;
		/dev/zram[0-9]*) [[ $(stat -c %i "${file% (deleted)}" 2>/dev/null) == "$inode" ]] || echo "$dev" ;;
		esac
	done
}

# is_swap DEVICE: a path in a container's /dev ends in the same name.
is_swap() { awk -v name="${1##*/}" 'NR > 1 {n = split($1, part, "/"); if (part[n] == name) found = 1} END {exit !found}' /proc/swaps; }

# leftovers: a container that was killed in the middle can leave swap on a loop
# device. It is cleared away, and the tests have failed.
leftovers() {
	local dev code=0
	while read -r dev; do
		code=1
		warn "$dev was left attached"
		if is_swap "$dev"; then
			warn "swap was left on $dev"
			swapoff "$dev"
		fi
		losetup -d "$dev"
	done < <(loops | sort | comm -13 "$scratch/loops" -)
	return "$code"
}
