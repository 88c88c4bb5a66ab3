# shellcheck shell=bash
# Sourced after common.sh: a Docker engine, and a base image where none can be pulled.
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
