# Targets for people; the work is in scripts/.

GO ?= go

.PHONY: all build image demo test bench lint clean help

all: build

help:            ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

build:           ## the static binary, build/zramfs
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o build/zramfs ./cmd/zramfs

image:           ## a container image, zramfs:latest
	docker build -t zramfs .

demo:            ## a program with 1 GiB of data in 256 MiB of RAM (root)
	@scripts/demo.sh

test:            ## every test (root; installs what it needs on Debian)
	@scripts/test.sh

bench:           ## against kernel zram, tmpfs and nbdkit (root); BENCH=--short for a quick one
	@scripts/bench.sh $(BENCH)

lint:            ## gofmt, vet, staticcheck, shellcheck
	@scripts/lint.sh

clean:           ## remove build/
	rm -rf build
