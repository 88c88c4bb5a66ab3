#!/usr/bin/env bash
# Runs a program that knows only the kernel's zram, unchanged, on a mount of
# zramfs: scripts/as-kernel.sh MOUNTPOINT COMMAND [ARGUMENT…]
#
# In a mount namespace of its own, /sys/block/zramN, /sys/dev/block/M:N and
# /sys/class/zram-control are those of the mount, and /dev/zramN is the loop
# device on disk N, if it is attached; else a node that no driver answers for,
# which is enough for zramctl. The rest of the machine stays as it is, for the
# program and for everybody else; the kernel's own zram is out of its sight.
set -euo pipefail
shopt -s extglob

most=16      # disks that the program can see, also those that it adds
absent=4000  # a major number that no driver has

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# over DIRECTORY STASH: an empty directory in its place, with links to all that was there but zram.
over() {
	mount -t tmpfs -o mode=755 zramfs "$1"
	ln -s "$2"/!(zram*) "$1"
}

# inside MOUNTPOINT COMMAND…: in the new namespace.
inside() {
	local point=$1 n dir file node
	local -A node_of
	stash=$2 # what lies under the new directories; it goes with the namespace
	shift 2
	mount -t tmpfs -o mode=755 zramfs "$stash"
	mkdir "$stash/sys" "$stash/dev" "$stash/point"
	mount --rbind /sys "$stash/sys"
	mount --rbind /dev "$stash/dev"
	mount --bind "$point" "$stash/point"
	over /sys/block "$stash/sys/block"
	over /sys/class "$stash/sys/class"
	over /sys/dev/block "$stash/sys/dev/block"
	over /dev "$stash/dev"
	ln -s "$stash/point/sys/class/zram-control" /sys/class/zram-control
	for dir in "$stash"/sys/block/loop*; do
		[[ -r $dir/loop/backing_file ]] && read -r file <"$dir/loop/backing_file" && node_of[$file]=$(<"$dir/dev")
	done
	for ((n = 0; n < most; n++)); do
		node=${node_of[$point/dev/zram$n]:-$absent:$n}
		ln -s "$stash/point/sys/block/zram$n" /sys/block
		mknod -m 660 "/dev/zram$n" b "${node%:*}" "${node#*:}"
		ln -sfn "$stash/point/sys/block/zram$n" "/sys/dev/block/$node"
	done
	exec "$@"
}

if [[ ${1:-} == --inside ]]; then
	shift
	inside "$@"
fi
(($# >= 2)) || die "expected MOUNTPOINT COMMAND [ARGUMENT…], got $# words"
point=$(realpath -- "$1")
[[ -d $point/sys/block ]] || die "$1 is no mount of zramfs: expected $1/sys/block there; zramfs mount makes one"
[[ $EUID -eq 0 ]] || die "mounts in a namespace of its own: be root"
shift
stash=$(mktemp -d)
trap 'rmdir "$stash"' EXIT
unshare --mount --propagation private -- "$0" --inside "$point" "$stash" "$@"
