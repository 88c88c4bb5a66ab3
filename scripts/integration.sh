#!/usr/bin/env bash
# The integration tests inside a container of the image that the Dockerfile
# makes. Starts a Docker engine if none runs, and makes a base image if none
# can be pulled. Arguments are handed to go test, such as -run Swap.
# Exit codes: those of go test; 77: this machine lacks something, which is named.
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
	local given=(--quiet --network none --build-arg PREBUILT=1 --build-arg GO_IMAGE="$test_base")
	docker build "${given[@]}" -t "$ZRAMFS_IMAGE" --build-arg BASE="$test_base" . \
		>"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" >&2; die "the image does not build"; }
	docker build "${given[@]}" -t "$ZRAMFS_IMAGE-scratch" . >>"$scratch/build.log" 2>&1
	say "image: $(docker image inspect -f '{{.Size}}' "$ZRAMFS_IMAGE-scratch" | numfmt --to=iec) (tests use it on top of Debian)"
}

remove_container() { docker rm --force "$1" >/dev/null; }

# documented: the line that the Dockerfile gives serves, and ends when it is told to.
documented() {
	local line id
	line=$(sed -n 's/^# *docker run --rm //p' Dockerfile)
	line=${line/ zramfs / "$ZRAMFS_IMAGE-scratch" }
	# shellcheck disable=SC2086 # words; Ubuntu forbids mount without the option
	id=$(docker run --detach --network none --security-opt apparmor=unconfined $line)
	on_exit remove_container "$id"
	if ! until_ok 30 docker exec "$id" /usr/bin/zramfs get "${line##* }" disksize; then
		docker logs "$id" >&2
		die "it does not serve: docker run $line"
	fi
	docker stop --time 30 "$id" >/dev/null
	[[ $(docker wait "$id") == 0 ]] || die "it did not end well: docker run $line"
	say "docker run $line: it serves"
}

if [[ $EUID -eq 0 ]]; then container_packages || exit 77; fi
scratch_dir
loops | sort >"$scratch/loops"
export ZRAMFS_IMAGE=zramfs-integration
docker_engine
say "Docker engine $(docker info -f '{{.ServerVersion}}, {{.Driver}}')"
base_image
build_image
on_exit leftovers
documented
CGO_ENABLED=0 go test -count=1 -v -timeout 20m -exec "$root/scripts/lib/in-container.sh" "$packages" "$@" |
	awk '!/^=== / && !/^PASS$/'
