# Keelson's build. Everything it makes lies under build/; what it needs from Debian it installs itself (as
# root, or with sudo) and only what is missing. `make help` lists the targets.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

B := build
BIN := $(B)/bin
STORE := $(B)/store
CACHE := $(B)/cache
STAMP := $(B)/stamp
IMAGES := testdata/images

# What is built depends on the sources alone: not on the folder, on whether git knows it, or on what the environment
# tells the Go tool to make.
export GOFLAGS := -buildvcs=false
export GOOS := linux
export GOARCH := amd64
export GOAMD64 := v1

# The Go tool, found (or installed) once and remembered.
GO = $(shell cat $(STAMP)/go 2>/dev/null || $(IMAGES)/go.sh)
GOFLAGS_OUT := -trimpath -ldflags "-s -w -buildid="
# What runs in the machine asks for no huge pages: a kernel that gives them unasked, as Debian's does, backs each
# small Go heap with 2 MB pages. The variable is where the linker puts a program's default GODEBUG settings.
LEAN := -X runtime.godebugDefault=disablethp=1
GOFLAGS_GUEST := -trimpath -ldflags "-s -w -buildid= $(LEAN)"

# Any change to a source or to the modules builds the binaries again; Go's cache makes that cheap.
SOURCES := go.mod go.sum $(shell find init services onboot containerd runc-shim mkimage internal -type f \
	\( -name '*.go' -o -name '*.c' -o -name '*.h' \) -not -name '*_test.go' 2>/dev/null)

# Build tags of the daemon and of the shim: what of containerd and runc each leaves out.
SERVICE_TAGS := grpcnotrace no_rdt nethttpomithttp2
SHIM_TAGS := netgo osusergo seccomp runc_nocriu no_grpc grpcnotrace
# The shim's packages are built with other tags than the rest, and so are looked at apart.
PACKAGES = $$($(GO) list ./... | grep -v '/runc-shim')
comma := ,
empty :=
tags = -tags $(subst $(empty) $(empty),$(comma),$(strip $(1)))
# The stock programs as their own projects build them, static, less what wants C libraries or is not run here.
STOCK := github.com/containerd/containerd/v2
STOCK_TAGS := grpcnotrace no_cri no_btrfs no_zfs no_devmapper no_tracing no_systemd no_rdt urfave_cli_no_docs osusergo netgo static_build
STOCK_SHIM_TAGS := no_grpc no_systemd no_tracing urfave_cli_no_docs osusergo netgo static_build
STOCK_RUNC_TAGS := seccomp urfave_cli_no_docs netgo osusergo
STOCK_VERSION = $(shell $(GO) list -m -f '{{.Version}}' $(STOCK))
STOCK_BIN := $(addprefix $(BIN)/stock/,containerd ctr containerd-shim-runc-v2 runc)
STOCK_LD = -s -w -buildid= -X $(STOCK)/version.Version=$(STOCK_VERSION) -X $(STOCK)/version.Package=$(STOCK)

DEMOS := $(patsubst testdata/%.yml,%,$(wildcard testdata/*.yml))
MKIMAGE := $(BIN)/mkimage
BUILD_IMAGE = $(MKIMAGE) build --store $(STORE)

HTTP_PORT ?= 8080
REDIS_PORT ?= 6379

##@ Using it

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo

.PHONY: build
build: $(BIN)/init $(BIN)/service $(BIN)/containerd-shim-runc-v2 $(MKIMAGE) ## build the binaries into build/bin

.PHONY: image
image: $(B)/keelson.tar $(B)/keelson-ctr.tar $(B)/keelson-runc.tar ## the init as an OCI image for linuxkit or mkimage: build/keelson.tar; and the stock ctr and runc: build/keelson-ctr.tar, build/keelson-runc.tar

.PHONY: images
images: $(addprefix $(STAMP)/image-,init kernel kernel-lean kernel-no-overlay kernel-watchdog busybox redis guestagent attack stock-runtime ctr runc) ## the images that the examples and tests use, into build/store

.PHONY: demo
demo: $(foreach d,$(DEMOS),$(B)/demo/$(d)-initrd.img) ## build every testdata/*.yml into build/demo (NAME-kernel, NAME-initrd.img, NAME-cmdline)

.PHONY: run
run: $(B)/demo/web-initrd.img | host-vm ## boot testdata/web.yml on this terminal: a web page on port 8080, a redis on 6379 (HTTP_PORT=, REDIS_PORT=)
	@$(IMAGES)/run.sh $(MKIMAGE) $(B)/demo/web $(HTTP_PORT) $(REDIS_PORT)

##@ Working on it

.PHONY: test
test: lint unit reproducible vmtest ## everything that must hold: lint, unit tests with the race detector, the same bytes twice, the virtual machines

.PHONY: lint
lint: $(STAMP)/go | host-build ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt=$$(dirname $(GO))/gofmt; [ -x "$$gofmt" ] || gofmt=gofmt; find . -path ./$(B) -prune -o -name '*.go' -print | xargs "$$gofmt" -l); \
		[ -z "$$unformatted" ] || { echo "gofmt is not done on:"; echo "$$unformatted"; exit 1; }
	$(GO) vet $(call tags,vm $(SERVICE_TAGS)) $(PACKAGES)
	CGO_ENABLED=1 $(GO) vet $(call tags,$(SHIM_TAGS)) ./runc-shim/...
	$(GO) tool staticcheck $(call tags,vm $(SERVICE_TAGS)) $(PACKAGES)
	CGO_ENABLED=1 $(GO) tool staticcheck $(call tags,$(SHIM_TAGS)) ./runc-shim/...

.PHONY: unit
unit: export KEELSON_BUSYBOX = $(CURDIR)/$(B)/images/busybox/bin/busybox
unit: export KEELSON_STOCK = $(CURDIR)/$(BIN)/stock
unit: $(STAMP)/go $(B)/images/busybox/bin/busybox $(STOCK_BIN) | host-build host-tests ## the unit tests, with the race detector
	$(GO) test -race $(call tags,$(SERVICE_TAGS)) $(PACKAGES)
	CGO_ENABLED=1 $(GO) test -race $(call tags,$(SHIM_TAGS)) ./runc-shim/...

.PHONY: reproducible
reproducible: image $(B)/demo/minimal-initrd.img | host-tests ## build a copy of the tree in another folder and compare (FULL=1: Go's cache is not used either)
	$(IMAGES)/reproducible.sh $(B) $(GO) $(FULL)

.PHONY: vmtest
vmtest bench: export KEELSON_BUILD = $(CURDIR)/$(B)
vmtest: build images | host-vm host-tests ## the tests that boot virtual machines (RUN=regexp for some of them)
	$(GO) test -tags vm -count=1 -parallel 2 -timeout 60m $(if $(RUN),-run '$(RUN)' -v) ./internal/qemu ./test

.PHONY: bench
bench: build images | host-vm ## measure this tree against the budgets: a table, and build/bench.json
	$(GO) run ./bench

.PHONY: clean
clean: ## remove what was built; Debian's packages in build/cache stay
	rm -rf $(BIN) $(STORE) $(STAMP) $(B)/images $(B)/demo $(B)/keelson.tar $(B)/keelson-ctr.tar $(B)/keelson-runc.tar $(B)/bench.json

.PHONY: distclean
distclean: ## remove build/ altogether
	rm -rf $(B)

# What this machine must have.

.PHONY: host-build host-vm host-tests
host-build:
	@$(IMAGES)/host.sh build
host-vm:
	@$(IMAGES)/host.sh vm
host-tests:
	@$(IMAGES)/host.sh tests

$(STAMP)/go: $(IMAGES)/go.sh go.mod
	@mkdir -p $(@D)
	@$(IMAGES)/go.sh >$@.new && mv $@.new $@

# Binaries. All are static; the shim has C in it (libcontainer's namespace code, libseccomp).

$(BIN)/init: $(SOURCES) $(STAMP)/go
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_GUEST) -o $@ ./init && touch $@

$(BIN)/service: $(SOURCES) $(STAMP)/go
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_GUEST) -tags '$(SERVICE_TAGS)' -o $@ ./services && touch $@

$(BIN)/containerd-shim-runc-v2: $(SOURCES) $(STAMP)/go | host-build
	CGO_ENABLED=1 $(GO) build -trimpath -tags '$(SHIM_TAGS)' \
		-ldflags '-s -w -buildid= $(LEAN) -linkmode external -extldflags "-static -Wl,--build-id=none"' -o $@ ./runc-shim && touch $@

$(MKIMAGE): $(SOURCES) $(STAMP)/go
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_OUT) -o $@ ./mkimage && touch $@

$(BIN)/guestagent: $(SOURCES) $(STAMP)/go
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_OUT) -o $@ ./internal/guestagent/guestagent && touch $@

$(BIN)/attack: $(wildcard test/attack/*.go) $(STAMP)/go
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_OUT) -o $@ ./test/attack && touch $@

# The stock runtime, from the versions that go.mod pins: an image with it in place of ours boots as well.
$(BIN)/stock/containerd $(BIN)/stock/ctr: $(STAMP)/go go.mod
	CGO_ENABLED=0 $(GO) build -trimpath -tags '$(STOCK_TAGS)' -ldflags '$(STOCK_LD)' -o $@ $(STOCK)/cmd/$(@F) && touch $@

$(BIN)/stock/containerd-shim-runc-v2: $(STAMP)/go go.mod
	CGO_ENABLED=0 $(GO) build -trimpath -tags '$(STOCK_SHIM_TAGS)' -ldflags '$(STOCK_LD)' -o $@ $(STOCK)/cmd/$(@F) && touch $@

$(BIN)/stock/runc: $(STAMP)/go go.mod | host-build
	CGO_ENABLED=1 $(GO) build -trimpath -tags '$(STOCK_RUNC_TAGS)' \
		-ldflags '-s -w -buildid= -linkmode external -extldflags "-static -Wl,--build-id=none"' -o $@ github.com/opencontainers/runc && touch $@

# Images: a folder each under build/images, then into the store.

$(B)/images/kernel/kernel.tar: $(IMAGES)/kernel.sh $(IMAGES)/debian.sh $(IMAGES)/kernel.modules
	$(IMAGES)/kernel.sh $(@D) $(CACHE) $(IMAGES)/kernel.modules

$(B)/images/kernel-watchdog/kernel.tar: PACKAGE := linux-image-amd64
$(B)/images/kernel-%/kernel.tar: $(IMAGES)/kernel-%.modules $(IMAGES)/kernel.sh $(IMAGES)/debian.sh $(B)/images/kernel/kernel.tar
	$(IMAGES)/kernel.sh $(@D) $(CACHE) $< $(PACKAGE)

$(B)/images/busybox/bin/busybox: $(IMAGES)/busybox.sh $(IMAGES)/debian.sh $(IMAGES)/udhcpc.script
	$(IMAGES)/busybox.sh $(B)/images/busybox $(CACHE) && touch $@

$(B)/images/redis/usr/bin/redis-server: $(IMAGES)/redis.sh $(IMAGES)/debian.sh
	$(IMAGES)/redis.sh $(B)/images/redis $(CACHE) && touch $@

$(B)/images/guestagent/bin/guestagent: $(BIN)/guestagent $(B)/images/busybox/bin/busybox
	rm -rf $(B)/images/guestagent && cp -a $(B)/images/busybox $(B)/images/guestagent && install -m 0755 $(BIN)/guestagent $@

$(B)/images/attack/bin/attack: $(BIN)/attack $(B)/images/busybox/bin/busybox
	rm -rf $(B)/images/attack && cp -a $(B)/images/busybox $(B)/images/attack && install -m 0755 $(BIN)/attack $@ && ln -s attack $(@D)/attack-once

$(B)/images/stock-runtime/usr/bin/runc: $(STOCK_BIN)
	rm -rf $(B)/images/stock-runtime && mkdir -p $(@D) && install -m 0755 $^ $(@D)/ && touch $@

# For a debug container with containerd's own client and runc; keelson itself has no use for them.
$(B)/images/ctr/usr/bin/ctr: $(BIN)/stock/ctr
	mkdir -p $(@D) && install -m 0755 $< $@

$(B)/images/runc/usr/bin/runc: $(BIN)/stock/runc
	mkdir -p $(@D) && install -m 0755 $< $@

$(B)/images/init/init: $(IMAGES)/init.sh $(BIN)/init $(BIN)/service $(BIN)/containerd-shim-runc-v2
	$(IMAGES)/init.sh $(B)/images/init $(BIN) && touch $@

PATH_ENV := PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

$(STAMP)/image-init: $(B)/images/init/init
$(STAMP)/image-kernel: $(B)/images/kernel/kernel.tar
$(STAMP)/image-kernel-lean: $(B)/images/kernel-lean/kernel.tar
$(STAMP)/image-kernel-no-overlay: $(B)/images/kernel-no-overlay/kernel.tar
$(STAMP)/image-kernel-watchdog: $(B)/images/kernel-watchdog/kernel.tar
$(STAMP)/image-busybox: $(B)/images/busybox/bin/busybox
$(STAMP)/image-redis: $(B)/images/redis/usr/bin/redis-server
$(STAMP)/image-guestagent: $(B)/images/guestagent/bin/guestagent
$(STAMP)/image-attack: $(B)/images/attack/bin/attack
$(STAMP)/image-ctr: $(B)/images/ctr/usr/bin/ctr
$(STAMP)/image-runc: $(B)/images/runc/usr/bin/runc
$(STAMP)/image-stock-runtime: $(B)/images/stock-runtime/usr/bin/runc

# A kernel without a console gives PID 1 no open files, and Go opens /dev/null before any of our code runs.
DEVICES := --device /dev/null:1:3 --device /dev/console:5:1
$(STAMP)/image-init: CONFIG := {"Cmd":["/init"]}
$(STAMP)/image-init: IMPORT := $(DEVICES)
$(STAMP)/image-kernel $(STAMP)/image-kernel-lean $(STAMP)/image-kernel-no-overlay $(STAMP)/image-kernel-watchdog $(STAMP)/image-stock-runtime $(STAMP)/image-ctr $(STAMP)/image-runc: CONFIG := {}
$(STAMP)/image-busybox: CONFIG := {"Cmd":["/bin/sh"],"Env":["$(PATH_ENV)"]}
$(STAMP)/image-redis: CONFIG := {"Cmd":["redis-server","--save","","--protected-mode","no"],"Env":["$(PATH_ENV)"],"WorkingDir":"/var/lib/redis"}
$(STAMP)/image-attack: CONFIG := {"Cmd":["/bin/attack"],"Env":["$(PATH_ENV)"]}
$(STAMP)/image-guestagent: CONFIG := {"Cmd":["/bin/guestagent"],"Env":["$(PATH_ENV)"]}

$(STAMP)/image-%: $(MKIMAGE)
	$(MKIMAGE) import --store $(STORE) --config '$(CONFIG)' $(IMPORT) keelson/$* $(B)/images/$*
	@mkdir -p $(@D) && touch $@

$(B)/keelson.tar: $(B)/images/init/init $(MKIMAGE)
	$(MKIMAGE) import --output $@ --config '{"Cmd":["/init"]}' $(DEVICES) keelson/init $(B)/images/init

$(B)/keelson-ctr.tar: $(B)/images/ctr/usr/bin/ctr $(MKIMAGE)
	$(MKIMAGE) import --output $@ --config '{}' keelson/ctr $(B)/images/ctr

$(B)/keelson-runc.tar: $(B)/images/runc/usr/bin/runc $(MKIMAGE)
	$(MKIMAGE) import --output $@ --config '{}' keelson/runc $(B)/images/runc

$(B)/demo/%-initrd.img: testdata/%.yml $(MKIMAGE) $(addprefix $(STAMP)/image-,init kernel busybox redis)
	@mkdir -p $(@D)
	$(BUILD_IMAGE) -o $(@D) --name $* $<
