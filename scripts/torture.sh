#!/usr/bin/env bash
# Every test at full length: hours. Each part that has passed is noted in
# build/torture with the files that it passed with, and left out when this is
# started again with the same; --fresh forgets.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"

kills=2000
notes=$build/torture
case ${1:-} in
--fresh) rm -rf "$notes" ;;
"") ;;
*) die "unknown argument $1: expected --fresh or nothing" ;;
esac
[[ $EUID -eq 0 ]] || die "mounts, swaps and kills daemons: be root"
mkdir -p "$notes"
test_packages || warn "tests that need these will say so."

# tree: all files that are there, whether or not they were committed.
tree() {
	find . \( -path ./.git -o -path ./build \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}

# part NAME COMMAND…: run it unless this state of the tree has passed it.
part() {
	local name=$1 tree
	shift
	tree=$(tree) || die "not all files can be read: nothing would be noted"
	if [[ $(cat "$notes/$name" 2>/dev/null) == "$tree" ]]; then
		say "passed before: $name"
		return
	fi
	step "$name"
	"$@"
	echo "$tree" >"$notes/$name"
}

# fuzz_all PACKAGE: each of its fuzz targets, five minutes.
fuzz_all() {
	local target targets
	targets=$(go test -list '^Fuzz' "$1") || die "$1 does not build: $targets"
	targets=$(grep '^Fuzz' <<<"$targets") || die "$1 has no fuzz targets"
	for target in $targets; do
		go test -run '^$' -fuzz "^$target\$" -fuzztime 5m "$1"
	done
}

for load in file loop swap; do part "kill-$load" scripts/kill-test.sh "$kills" "$load"; done
part vm scripts/vm.sh --matrix
part ablation scripts/vm.sh --ablate all
part integration env ZRAMFS_LONG=1 go test ./test/integration -count=1 -v -timeout 6h
part container scripts/integration.sh
part models env ZRAMFS_LONG=1 go test ./blockdev -run 'Model|Metamorphic' -count=1 -v -timeout 2h
part race go test -race ./... -timeout 1h
part memory env ZRAMFS_HONEST_MINUTES=30 go test ./test/integration -run MemoryHonest -count=1 -v -timeout 1h
part density env ZRAMFS_LONG=1 go test ./blockdev -run Density -count=1 -v
part races env ZRAMFS_LONG=1 go test -race ./blockdev -run Races -count=1 -v -timeout 1h
for package in blockdev compress pool internal/fuseconn; do part "fuzz-${package##*/}" fuzz_all "./$package"; done
say "all passed."
