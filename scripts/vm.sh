#!/usr/bin/env bash
# Guests of 128 to 512 MiB whose only swap is zramfs, in QEMU without KVM; and
# guests with a disk of zramfs over a network block device (scenarios nbd*).
#
#   scripts/vm.sh --short             what make test runs
#   scripts/vm.sh --matrix            every scenario in every size, for hours; goes on where it stopped
#   scripts/vm.sh --ablate a,b,c      guards switched off one by one, to see what each is worth; all: every one
#   scripts/vm.sh --list              the scenarios
#   scripts/vm.sh --run full --memory 128 --cpus 1 -v            one by hand, with all that the guest says
#   scripts/vm.sh --run eater --set EAT=150 --set 'SWAPON=--size 1G'
#
# --set gives a parameter that test/vm/guest reads; each is a word on the guest
# kernel's command line. Results and logs of each guest lie in
# build/vm/results, by the binaries they belong to. What has passed with the
# same binaries is not run again, unless --again is given.
# Exit codes: 0 all is well, 1 a guest did not do as it should, 2 it could not
# run, 3 it was interrupted, 4 guests were too slow by the host's clock and
# nothing else was wrong, 77 this machine lacks something, which is named.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"

work=$build/vm
mkdir -p "$work"

# busybox that needs no library; the installed one may be another.
static_busybox() {
	[[ ! -e $work/busybox ]] || return 0
	local from
	from=$(command -v busybox || true)
	if [[ -n $from ]] && ! ldd "$from" >/dev/null 2>&1; then
		cp "$from" "$work/busybox"
		return
	fi
	scratch_dir
	chmod 755 "$scratch"
	(cd "$scratch" && apt-get -qq download busybox-static >"$scratch/log" 2>&1) || { cat "$scratch/log" >&2; return 1; }
	dpkg -x "$scratch"/busybox-static_*.deb "$scratch/root"
	cp "$(find "$scratch/root" -name busybox -type f -perm -1 | head -n 1)" "$work/busybox"
}

guest_programs() {
	gcc -O2 -Wall -Wextra -Werror -D_GNU_SOURCE -static -s -o "$work/init" test/vm/guest/*.c
	# Without the commit's name: results hold as long as the program is the same.
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$work/zramfs" ./cmd/zramfs
	go build -o "$work/vm" ./test/vm
}

lacking() {
	warn "$*"
	exit 77
}

links_static() { echo 'int main(void) { return 0; }' | gcc -static -x c -o "$work/try" - 2>/dev/null; }

[[ $(uname -m) == x86_64 ]] || lacking "guests are x86-64 machines, and so must this one be"
packages_for qemu-system-x86_64:qemu-system-x86 gcc:gcc xz:xz-utils nbdkit:nbdkit || exit 77
links_static || packages_for libc-static:libc6-dev || exit 77
scoped static_busybox || lacking "no busybox-static to be had"
for version in 6.12 6.1; do
	scripts/vm-kernel.sh "$version" "$work/kernel/$version" || exit 77
done
guest_programs
exec "$work/vm" --root "$root" --work "$work" "$@"
