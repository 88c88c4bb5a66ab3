#!/usr/bin/env bash
# Formatting, go vet under every build tag, staticcheck, shellcheck.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname "$0")/lib/common.sh"
# shellcheck source=scripts/lib/install.sh
source "$root/scripts/lib/install.sh"

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

format() {
	local bad
	bad=$(git ls-files '*.go' | xargs -r gofmt -l)
	[[ -z $bad ]] || die "not formatted (run gofmt -w): $bad"
}

step "gofmt"
format
for tags in '' invariants crashpoints; do
	step "go vet${tags:+ -tags $tags}"
	go vet -tags "$tags" ./...
done
step "staticcheck"
go run "$staticcheck" ./...
go run "$staticcheck" -tags invariants,crashpoints ./...
step "shellcheck"
lint_packages
mapfile -t shells < <(git ls-files 'scripts/*.sh' .ci/run deploy/systemd/zramfs-sleep)
shellcheck -x "${shells[@]}"
if have systemd-analyze; then
	step "systemd-analyze verify"
	units=$(mktemp -d)
	trap 'rm -rf "$units"' EXIT
	cp deploy/systemd/*.service deploy/systemd/*.slice "$units"
	mv "$units/zramfs-swap@.service" "$units/zramfs-swap@zram0.service"
	# The programs need not be installed for this.
	sed -i 's,^\(Exec[A-Za-z]*\)=[^ ]*,\1=/bin/true,' "$units"/*.service
	systemd-analyze verify --man=no "$units"/*
fi
say "lint: nothing to say"
