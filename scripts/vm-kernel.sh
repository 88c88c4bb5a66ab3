#!/usr/bin/env bash
# A kernel of Debian's for guests: scripts/vm-kernel.sh VERSION DIRECTORY, where
# VERSION is as 6.12. Nothing is installed: the package is unpacked, and
# DIRECTORY gets vmlinuz, the modules that guests load, and the release's name.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"

version=${1:?a version, such as 6.12} into=${2:?a directory}
modules=(fuse loop lz4_compress lz4hc_compress lz4 zsmalloc zram failover net_failover virtio_net nbd)

# What an older version of this script has left may lack modules.
[[ $(cat "$into/holds" 2>/dev/null) != "${modules[*]}" ]] || exit 0
have apt-get || die "guests boot Debian's kernels, and this machine has no apt-get to get them with"
scratch_dir
chmod 755 "$scratch" # apt downloads as a user of its own
options=()

# newest: the package's name; an older one may be all that a mirror has kept.
newest() {
	apt-cache "${options[@]}" pkgnames "linux-image-$version." |
		grep -E "^linux-image-${version//./\\.}\.[0-9]+[^/]*-cloud-amd64$" | sort -rV
}

download() {
	local package
	for package in $(newest); do
		(cd "$scratch" && apt-get "${options[@]}" -qq download "$package" >>"$scratch/log" 2>&1) && return
	done
	return 1
}

# other_suites: the machine's own Debian mirrors, asked for other releases too.
# Lists and state lie in the scratch directory: the machine's apt sees nothing.
other_suites() {
	local base suite
	mkdir -p "$scratch/apt/lists" "$scratch/apt/cache"
	# shellcheck disable=SC2016 # apt expands it
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u | while read -r base; do
		for suite in bookworm bookworm-backports bookworm-security trixie trixie-security; do
			printf 'deb [signed-by=%s] %s %s main\n' /usr/share/keyrings/debian-archive-keyring.gpg "$base" "$suite"
		done
	done >"$scratch/apt/sources.list"
	options=(-o "Dir::Etc::sourcelist=$scratch/apt/sources.list" -o Dir::Etc::sourceparts=-
		-o "Dir::State::lists=$scratch/apt/lists" -o "Dir::Cache=$scratch/apt/cache" -o Acquire::Languages=none)
	# A mirror has not all of these suites; it is enough that one has the kernel.
	apt-get "${options[@]}" -qq update >>"$scratch/log" 2>&1 || true
}

if ! download; then
	[[ $EUID -ne 0 ]] || apt-get -qq update >>"$scratch/log" 2>&1 || true
	download || { other_suites; download; } || {
		tail -n 5 "$scratch/log" >&2
		die "no mirror of this machine has a linux-image-$version.*-cloud-amd64"
	}
fi
dpkg -x "$scratch"/linux-image-*.deb "$scratch/root"
release=$(basename "$scratch"/root/boot/vmlinuz-*)
release=${release#vmlinuz-}
rm -rf "$into"
mkdir -p "$into/modules"
cp "$scratch/root/boot/vmlinuz-$release" "$into/vmlinuz"
for module in "${modules[@]}"; do
	file=$(find "$scratch/root" -path "*/lib/modules/*" -name "$module.ko*" -print -quit)
	case $file in
	'') ;; # built in, or not there in this version
	*.xz) xz -dc "$file" >"$into/modules/$module.ko" ;;
	*) cp "$file" "$into/modules/" ;;
	esac
done
printf '%s\n' "$release" >"$into/release"
printf '%s\n' "${modules[*]}" >"$into/holds" # last: it says that all is there
say "guest kernel: $release"
