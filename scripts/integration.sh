#!/usr/bin/env bash
# The integration tests inside a container of the image that the Dockerfile
# makes. Starts a Docker engine if none runs, and makes a base image if none
# can be pulled. Arguments are handed to go test, such as -run Swap.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"
# shellcheck source=scripts/lib/docker.sh
source "$root/scripts/lib/docker.sh"

packages=${INTEGRATION_PACKAGES:-./test/integration/...}

# build_image: the binary is compiled here, so that no image with Go is needed.
build_image() {
	mkdir -p "$build/image"
	build_static image/zramfs ./cmd/zramfs
	build_static swapper ./test/swapper
	docker build --quiet --network none -t "$ZRAMFS_IMAGE" --build-arg GO_IMAGE="$test_base" --build-arg BASE="$test_base" . \
		>"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" >&2; die "the image does not build"; }
	docker build --quiet --network none -t zramfs --build-arg GO_IMAGE="$test_base" . >>"$scratch/build.log" 2>&1
	say "image zramfs: $(docker image inspect -f '{{.Size}}' zramfs | numfmt --to=iec) (tests use it on top of Debian)"
}

# swaps: devices that are swap. A path in a container's /dev ends in the same name.
swaps() { awk 'NR > 1 {n = split($1, part, "/"); print "/dev/" part[n]}' /proc/swaps; }
loops() { losetup -n -O NAME 2>/dev/null || true; }

# leftovers: a container that was killed in the middle can leave swap on a loop device.
leftovers() {
	local dev
	swaps | sort | comm -13 "$scratch/swaps" - | while read -r dev; do
		warn "swap was left on $dev"
		swapoff "$dev"
	done
	loops | sort | comm -13 "$scratch/loops" - | while read -r dev; do
		warn "$dev was left attached"
		losetup -d "$dev"
	done
}

if [[ $EUID -eq 0 ]]; then container_packages; fi
scratch_dir
swaps | sort >"$scratch/swaps"
loops | sort >"$scratch/loops"
export ZRAMFS_IMAGE=zramfs-integration
docker_engine
say "Docker engine $(docker info -f '{{.ServerVersion}}, {{.Driver}}')"
base_image
build_image
on_exit leftovers
CGO_ENABLED=0 go test -count=1 -v -timeout 20m -exec "$root/scripts/lib/in-container.sh" "$packages" "$@" |
	awk '!/^=== / && !/^PASS$/'
