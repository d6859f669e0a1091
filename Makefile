# Stockade. "make run" starts a server and shows it; "make test" checks everything.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: build tools peer run stop check test test-e2e test-attack test-fault test-compat fuzz bench soak golden install clean

export GOFLAGS := -buildvcs=false
export CGO_ENABLED := 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
# The time of the commit, so that a build is the same whenever it is made.
BUILT ?= $(shell TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%S+00:00 2>/dev/null)
LDFLAGS := -s -w -X stockade/internal/version.Version=$(VERSION) -X stockade/internal/version.Commit=$(COMMIT) -X stockade/internal/version.Built=$(BUILT)
DESTDIR ?=
LIBEXEC ?= /usr/local/libexec/stockade
# Programs with failpoints, for tests alone: make build TAGS=failpoint OUT=bin/failpoint/
TAGS ?=
OUT ?= bin/

build: ## programs into bin/
	@mkdir -p $(OUT)
	go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $(OUT) ./cmd/...

tools: ## pinned tools into bin/, if missing
	scripts/tools.sh test

peer: ## a Docker daemon to measure beside, into bin/peer/
	scripts/tools.sh peer

run: ## starts a server with a demo, as root
	scripts/run.sh

stop: ## ends what "make run" started
	scripts/stop.sh

check: ## format, vet, staticcheck, unit tests, import rules; no root
	scripts/tools.sh check
	scripts/check.sh

test: ## everything, as root; installs what it needs
	scripts/test.sh all

test-e2e test-attack test-fault test-compat: ## one whole-server suite, as root
	scripts/test.sh $(@:test-%=%)

fuzz: ## each fuzz target for FUZZTIME (default 20s)
	scripts/fuzz.sh

bench: build ## side-by-side measurement, as root; "make peer" before adds Docker's newest daemon
	scripts/packages.sh test
	scripts/users.sh
	scripts/tools.sh run
	go build -trimpath -o bin/bench ./bench
	bin/bench $(BENCH)

soak: build ## uses a server of its own for MINUTES (default 10) and looks for what grows, as root
	scripts/tools.sh run
	scripts/users.sh
	go run ./bench/soak -minutes $(or $(MINUTES),10)

golden: ## writes the golden files anew
	STOCKADE_GOLDEN=1 go test -count=1 ./...

install: build
	scripts/tools.sh run
	install -d -m 0755 $(DESTDIR)$(LIBEXEC)
	install -m 0755 bin/stockade bin/stockade-* bin/runc $(DESTDIR)$(LIBEXEC)/
	install -d -m 0755 $(DESTDIR)/usr/local/bin
	ln -sfn $(LIBEXEC)/stockade $(DESTDIR)/usr/local/bin/stockade

clean:
	rm -rf bin
