# make          build every program into bin/
# make run      build, make a private server under run/ if there is none, run it until Ctrl-C
# make test     all checks and tests
# make bench    benchmarks
# make install  PREFIX= DESTDIR=
# make clean    remove bin/ (run/ holds mail and stays)

RUN       ?= run
PORT_BASE ?= 10000
PREFIX    ?= /usr
BIN       ?= bin
GO        ?= go

export CGO_ENABLED = 0
BUILD = $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o

# Programs that run with rights of their own (set-gid, or started as root), and the
# one that scripts start all the time, are small binaries; all others are names of one.
MAINS = $(shell grep -l '^package main' cmd/*/*.go | sed 's,^,./,; s,/[^/]*$$,,' | sort -u)

# Packages whose goroutines share data: the race detector watches their tests.
RACE = ./cmd/master ./lib/store ./lib/imapd ./lib/smtp ./lib/smtpd ./lib/qmgr ./lib/queue ./lib/cleanup ./lib/maps ./lib/service ./lib/master ./lib/safefile ./lib/accounts ./lib/pop3d ./lib/lmtpd ./lib/maillog

.PHONY: all run test vet unit race fuzz e2e bench install clean

all:
	@mkdir -p "$(BIN)"
	@test -e "$(BIN)/angarium" || echo "building $(BIN)/ (the first time takes a minute or more)"
	@$(BUILD) "$(BIN)/" $(MAINS)
	@for n in `"$(BIN)/angarium"`; do ln -f "$(BIN)/angarium" "$(BIN)/$$n" || exit 1; done
	@ln -f "$(BIN)/master" "$(BIN)/cyrmaster"
	@ln -f "$(BIN)/sendmail" "$(BIN)/mailq"
	@ln -f "$(BIN)/sendmail" "$(BIN)/newaliases"

run: all
	@"$(BIN)/mailsetup" --keep --dir "$(RUN)" --port-base "$(PORT_BASE)" --run

test: vet unit race fuzz e2e

vet:
	@fmt=`gofmt -l cmd lib t`; test -z "$$fmt" || { echo "not gofmt-clean: $$fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

unit:
	$(GO) test ./cmd/... ./lib/...

race:
	@if command -v $${CC:-cc} >/dev/null 2>&1; then CGO_ENABLED=1 $(GO) test -race -short $(RACE); else echo "no C compiler: the race detector is skipped"; fi

# The seeds run with the unit tests; here each fuzz test also makes up some
# inputs of its own: a number of them, since a run that a clock ends can fail for the
# clock alone ("context deadline exceeded" while a worker still answers).
FUZZTIME ?= 2000x
fuzz:
	@set -e; for f in `grep -rl '^func Fuzz' --include=*_test.go lib cmd`; do \
	  for n in `sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f`; do \
	    $(GO) test ./`dirname $$f` -run '^$$' -fuzz "^$$n$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x >.fuzz.out 2>&1 || { cat .fuzz.out; rm -f .fuzz.out; exit 1; }; \
	  done; \
	done; rm -f .fuzz.out

e2e: all
	$(GO) test -count=1 -timeout 14m ./t

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./lib/...

install: all
	@BIN="$(BIN)" PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" sh etc/install.sh

clean:
	rm -rf "$(BIN)"
