# Targets for people; the work is in scripts/.

PREFIX ?= /usr/local
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# Where Go is though sudo's PATH says no.
export PATH := $(PATH):/usr/local/go/bin

.PHONY: all help build man image demo test torture bench bench-go bench-compare lint install units clean

all: build

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

build:           ## the static binary, build/zramfs
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o build/zramfs ./cmd/zramfs

man:             ## the man pages, docs/man
	go test ./cmd/zramfs -count=1 -run TestManPagesAreFresh -update

image:           ## a container image, zramfs:latest
	docker build -t zramfs .

demo:            ## a program with 1 GiB of data in 256 MiB of RAM (root)
	@scripts/demo.sh

test:            ## the tests, in their short forms (root; installs what it needs on Debian)
	@scripts/test.sh

torture:         ## every test at full length: hours; goes on where it stopped (root)
	@scripts/torture.sh

bench:           ## beside kernel zram, tmpfs and nbdkit (root); BENCH='--set swap,latency', BENCH=--short: docs/bench.md
	@scripts/bench.sh $(BENCH)

bench-go:        ## Go benchmarks of each layer, into OUT (build/bench-go.txt); GO_BENCH=Slot chooses by name
	@mkdir -p build
	go test -run '^$$' -bench '$(or $(GO_BENCH),.)' -benchmem -benchtime $(or $(BENCHTIME),0.2s) -count $(or $(COUNT),6) -timeout 1h \
		./compress ./pool ./blockdev ./internal/xts | tee $(or $(OUT),build/bench-go.txt)

bench-compare:   ## what changed between two of these: make bench-compare OLD=a.txt NEW=b.txt
	@$(if $(and $(OLD),$(NEW)),,echo "name two files: make bench-compare OLD=a.txt NEW=b.txt"; exit 2;) go tool benchstat $(OLD) $(NEW)

lint:            ## gofmt, vet, staticcheck, shellcheck
	@scripts/lint.sh

install: build     ## the binary and man pages, below PREFIX (/usr/local)
	install -D -t $(DESTDIR)$(PREFIX)/bin build/zramfs
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 docs/man/*.1

units:           ## the systemd units, below PREFIX
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/zramfs $(DESTDIR)/etc/zramfs
	install -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system deploy/systemd/*.service deploy/systemd/*.slice
	install -t $(DESTDIR)$(PREFIX)/lib/zramfs deploy/systemd/zramfs-sleep
	sed -i 's,/usr/local/,$(PREFIX)/,' $(DESTDIR)$(PREFIX)/lib/systemd/system/zramfs-*.service \
		$(DESTDIR)$(PREFIX)/lib/zramfs/zramfs-sleep
	install -m 644 -t $(DESTDIR)/etc/zramfs deploy/systemd/zram0.conf.example

clean:           ## remove build/
	rm -rf build
