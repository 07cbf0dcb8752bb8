# make run     build, format a file, mount it read-write at ./mnt, put a file there
# make test    everything that must pass before a change goes in
# make bench   benchmarks (BENCH=regexp, PKG=./internal/data)
# make fuzz    each fuzz target for FUZZTIME (30s; PKG=./internal/ondisk)
# make matrix  every format option in the virtual machine with the real driver, some ten minutes
# make stress  the allocator under load for STRESSTIME (1h), with the race detector; then both checks
# make lint    gofmt, vet, staticcheck
# make spin    the model of the allocator's protocol, all verdicts (models/README.md)
# make build   ./gobcachefs, a static binary
# make clean   removes what these made

GO       ?= go
PKG      ?= ./...
BENCH    ?= .
FUZZTIME ?= 30s
TIMEOUT  ?= 20m
STRESSTIME ?= 1h

STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@latest
PLATFORMS    = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64

export CGO_ENABLED ?= 0
SHELL := /bin/sh
.SHELLFLAGS := -euc
.ONESHELL:
.SILENT:
.PHONY: matrix stress run test bench fuzz lint build clean gofmt vet cross race fuse fio spin

run: build fuse
	mkdir -p dist mnt
	if grep -qs " $(CURDIR)/mnt " /proc/mounts; then
		echo "./mnt was mounted: unmounting it first"
		fusermount3 -u mnt 2>/dev/null || umount mnt || {
			echo "./mnt is in use: leave it (or: fusermount3 -uz mnt), then run this again" >&2; exit 1; }
	fi
	if [ ! -s dist/run.img ]; then
		truncate -s 1G dist/run.img
		echo "./gobcachefs format dist/run.img"
		./gobcachefs format -q dist/run.img
	fi
	if [ "$$($(GO) env GOOS)" != linux ]; then
		echo "No mount on this system. What is in the image:"
		exec ./gobcachefs ls -l dist/run.img /
	fi
	unmount="umount mnt"; install="apt-get install fuse3"
	if [ "$$(id -u)" != 0 ]; then unmount="fusermount3 -u mnt"; install="sudo apt-get install fuse3"; fi
	mounted=no
	if [ "$$(id -u)" = 0 ] || command -v fusermount3 >/dev/null; then
		echo "./gobcachefs mount dist/run.img mnt"
		if ./gobcachefs mount dist/run.img mnt; then mounted=yes; fi
	fi
	if [ $$mounted = no ]; then
		echo "./gobcachefs ls -l dist/run.img /"
		./gobcachefs ls -l dist/run.img /
		echo
		echo "This is what is in the image. Mounting it needs fusermount3 ($$install)" >&2
		echo "and the right to use /dev/fuse; then run this again." >&2
		exit 1
	fi
	if ! test -e mnt/hello; then
		echo "echo ... >mnt/hello"
		echo "written to bcachefs, $$(date)" >mnt/hello
	fi
	echo "cat mnt/hello"
	cat mnt/hello
	echo "ls -l mnt"
	ls -l mnt
	df -h mnt
	echo
	echo "dist/run.img is mounted read-write at ./mnt: use it. To unmount: $$unmount"
	echo "It is there again at the next make run; make clean deletes it."

test: gofmt vet fuse fio cross spin
	echo "== go test"
	$(GO) test -timeout $(TIMEOUT) ./...
	$(MAKE) --no-print-directory race

bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 0 $(PKG)

fuzz:
	for pkg in $$($(GO) list $(PKG)); do
		for target in $$($(GO) test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do
			echo "== $$pkg $$target"
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg"
		done
	done

matrix:
	echo "== every option, with the real driver"
	BCACHEFS_VM_MATRIX=1 $(GO) test -count=1 -timeout $(TIMEOUT) -run 'EveryOption|Matrix' . ./internal/engine

stress:
	echo "== many goroutines and the early allocator, for $(STRESSTIME)"
	CGO_ENABLED=1 BCACHEFS_KERNEL_VM=require $(GO) test -race -count=1 -timeout 0 -v -run 'TestLong$$' ./internal/engine -engine.long $(STRESSTIME)

lint: gofmt vet
	echo "== staticcheck"
	if $(GO) run $(STATICCHECK) -version >/dev/null 2>&1; then
		$(GO) run $(STATICCHECK) ./...
	else
		echo "skipped: $(STATICCHECK) cannot be fetched"
	fi

build:
	echo "== go build: ./gobcachefs"
	$(GO) build -trimpath -o gobcachefs ./cmd/gobcachefs

clean:
	if grep -qs " $(CURDIR)/mnt " /proc/mounts; then
		fusermount3 -u mnt 2>/dev/null || umount mnt || {
			echo "./mnt is in use: leave it (or: fusermount3 -uz mnt), then run this again" >&2; exit 1; }
	fi
	rm -rf gobcachefs dist "$${BCACHEFS_GOLDEN_CACHE:-$${TMPDIR:-/tmp}/go-bcachefs-golden-$$(id -u)}"
	if [ -d mnt ]; then rmdir mnt; fi

# Parts of the above.

gofmt:
	echo "== gofmt"
	files=$$(gofmt -l .)
	if [ -n "$$files" ]; then echo "not formatted (gofmt -w):" $$files >&2; exit 1; fi

vet:
	echo "== go vet"
	$(GO) vet ./...

cross:
	for platform in $(PLATFORMS); do
		echo "== build $$platform"
		GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0 $(GO) build ./...
	done

# The race detector is the one thing here that needs cgo.
race:
	if command -v gcc >/dev/null; then
		echo "== go test -race"
		CGO_ENABLED=1 $(GO) test -race -timeout $(TIMEOUT) ./...
	else
		echo "== go test -race: skipped, it needs gcc (Debian: apt-get install gcc libc6-dev)"
	fi

# Mounting needs fusermount3; tests that mount skip themselves without it.
fuse:
	if [ "$$(uname -s)" != Linux ] || command -v fusermount3 >/dev/null; then exit 0; fi
	if [ "$$(id -u)" != 0 ]; then
		echo "fusermount3 is missing; install it with: sudo apt-get install fuse3" >&2; exit 0
	fi
	if ! command -v apt-get >/dev/null; then
		echo "fusermount3 is missing; install the package fuse3" >&2; exit 0
	fi
	echo "== installing fuse3"
	if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq fuse3 >/dev/null; }; then
		echo "could not install fuse3: going on without" >&2
	fi

# One test has fio put a mount under load; it skips itself without.
fio:
	if [ "$$(uname -s)" != Linux ] || command -v fio >/dev/null; then exit 0; fi
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "fio is missing, one test is skipped (Debian: sudo apt-get install fio)"; exit 0
	fi
	echo "== installing fio"
	if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq fio >/dev/null; }; then
		echo "could not install fio: going on without" >&2
	fi

# The model needs spin, which makes a C program of it, and a compiler for that.
spin:
	if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
			echo "== spin models/claim.pml: skipped, it needs spin and gcc (Debian: sudo apt-get install spin gcc libc6-dev)"; exit 0
		fi
		echo "== installing spin"
		if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq spin gcc libc6-dev >/dev/null; }; then
			echo "== spin models/claim.pml: skipped, spin or gcc could not be installed" >&2; exit 0
		fi
	fi
	echo "== spin models/claim.pml"
	models/check
