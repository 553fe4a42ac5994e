# Massif. The two commands to know:
#
#   make run     builds massif, makes a volume, mounts it, does real work in it
#   make test    sets the machine up, checks and builds everything, runs all tests
#
# Both need Go and git and nothing else; as root they install what is missing
# (Debian packages), otherwise they say what is.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/massif-fs/massif/internal/cli.Version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# Packages whose tests also run under the race detector.
RACE := ./kv/... ./meta/... ./block/... ./cache/... ./object/... ./tree/... ./door/... ./mount/... ./seal/... ./service/... ./compat/... ./telemetry/...

FUZZTIME  ?= 20s
BENCHARGS ?=
SOAK      ?= 10

# Random tests draw the same each time, unless MASSIF_SEED is a number or "random"
# (internal/testseed); those of pgregory.net/rapid are told by RAPID_SEED.
ifeq ($(MASSIF_SEED),)
export RAPID_SEED ?= 1
else ifneq ($(MASSIF_SEED),random)
export RAPID_SEED ?= $(MASSIF_SEED)
endif

.PHONY: build run test race soak check bench bench-door fuzz man setup clean

# The program for this machine, bin/massif.
build:
	$(BUILD) -o bin/massif ./cmd/massif

run:
	@sh scripts/run.sh

setup:
	@sh scripts/setup.sh

# Everything CI asks for. The last lines are those of go test. The race detector
# comes first, where there is a C compiler for it.
test: setup
	CGO_ENABLED=0 $(GO) vet -trimpath ./...
	GOARCH=amd64 $(BUILD) -o bin/massif-linux-amd64 ./cmd/massif
	GOARCH=arm64 $(BUILD) -o bin/massif-linux-arm64 ./cmd/massif
	@sh scripts/test.sh

# The race detector alone, on all that runs concurrently.
race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $(RACE)

# The random tests again and again, each time with other seeds, for SOAK minutes.
soak: setup
	@SOAK=$(SOAK) sh scripts/soak.sh

check:
	@sh scripts/check.sh

# Speed beside the plain local file system (and JuiceFS, if it is on PATH).
bench: build
	$(GO) run ./internal/bench -massif $(CURDIR)/bin/massif $(BENCHARGS)

# The FUSE door alone, on a file system that does nothing, beside go-fuse.
bench-door:
	$(GO) test -run '^$$' -bench . -benchtime 0.5s ./door/fuse

# Each fuzz test for FUZZTIME.
fuzz:
	@FUZZTIME=$(FUZZTIME) sh scripts/fuzz.sh

# The manual pages, man/*.1.
man: build
	bin/massif man man

clean:
	rm -rf bin man
