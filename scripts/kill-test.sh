#!/usr/bin/env bash
# Kills the worker again and again under loads that verify every byte: fio on
# the file, fio through a loop device, a program on swap. Root.
#
#     scripts/kill-test.sh [KILLS] [--transport percpu|ring] [file|loop|swap…]      default: 50 kills of each, percpu
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"

kills=50
if [[ ${1:-} =~ ^[0-9]+$ ]]; then kills=$1; shift; fi
transport=percpu
if [[ ${1:-} == --transport ]]; then transport=${2:-}; shift 2 || die "--transport needs a name: percpu or ring"; fi
case $transport in
percpu) test=TestSurvive ;;
ring) test=TestRingSurvive ;;
*) die "unknown transport $transport: expected percpu or ring" ;;
esac
(($#)) || set -- file loop swap
names=
for load; do
	case $load in
	file | loop | swap) names+="|${load^}" ;;
	*) die "unknown load $load: expected file, loop or swap" ;;
	esac
done
[[ $EUID -eq 0 ]] || die "mounts and kills daemons: be root"
test_packages || die "install what is missing first."
ZRAMFS_KILLS=$kills go test ./test/integration -count=1 -v -timeout 12h -run "^$test(${names#|})\$" |
	awk '!/^=== / && !/^PASS$/ {print; fflush()}'
