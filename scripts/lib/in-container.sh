#!/usr/bin/env bash
# For `go test -exec`: runs a test binary in a container of the image
# $ZRAMFS_IMAGE, with the source tree at its own path, read only.
set -euo pipefail
binary=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)

memcg=(-v /sys/fs/cgroup/memory:/sys/fs/cgroup/memory:rw)
if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
	memcg=(--cgroupns host -v /sys/fs/cgroup:/sys/fs/cgroup:rw)
fi
rights=(
	--device /dev/fuse --cap-add SYS_ADMIN                            # mount
	--device /dev/loop-control --device-cgroup-rule 'b 7:* rmw'       # attach: loop devices…
	-v /sys/devices/virtual/block:/sys/devices/virtual/block:rw       # …and their queue settings
	--cap-add IPC_LOCK --security-opt seccomp=unconfined "${memcg[@]}" # swapon, and a limit to swap under
	--security-opt apparmor=unconfined                                # Ubuntu forbids mount otherwise
)
# The first process of a container must reap what daemons leave; a shell that waits does.
# shellcheck disable=SC2016
entry='
	for i in $(seq 0 63); do [ -b /dev/loop$i ] || mknod -m 660 /dev/loop$i b 7 $i; done
	"$@"
	exit $?'
exec docker run --rm --network none "${rights[@]}" \
	-v "$root:$root:ro" -v "$(dirname "$binary"):$(dirname "$binary"):ro" -w "$PWD" \
	-e ZRAMFS_BINARY=/usr/bin/zramfs -e SWAPPER_BINARY="$root/build/swapper" -e ZRAMFS_CONTAINER=1 \
	--entrypoint /bin/sh "$ZRAMFS_IMAGE" -c "$entry" sh "$binary" "$@"
