# One command for each thing that people do here; `make` alone lists them.

CARGO ?= cargo
ARCH := $(shell uname -m)
TARGET := $(ARCH)-unknown-linux-gnu
# hostd is one file that runs on any Linux: no libc to find. A fixed load address spares every shim the private
# pages that relocation would cost (half a megabyte for each container).
HOSTD_FLAGS := target.$(TARGET).rustflags=["-C","target-feature=+crt-static","-C","relocation-model=static"]
OUT := $(or $(CARGO_TARGET_DIR),target)
IMAGE := build/debian-12.qcow2
OWN_IMAGE := build/berth.img

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: setup
setup: ## Install the Debian packages that demo and tests need, where they are missing
	@tests/setup

.PHONY: build
build: ## Build berth and the static hostd, optimised, into build/
	$(CARGO) build --locked --release -p berth
	$(CARGO) build --locked --release -p hostd --target $(TARGET) --config '$(HOSTD_FLAGS)'
	@mkdir -p build
	@cp -u $(OUT)/release/berth $(OUT)/$(TARGET)/release/hostd build/

.PHONY: image
image: build $(IMAGE) $(OWN_IMAGE) ## Make VM images from Debian's packages: berth's own, and one with systemd
$(IMAGE): drivers/image/build-debian-image
	drivers/image/build-debian-image $@
# A newer hostd alone makes no new image: berth brings it to the machine, and only what is in the image is quicker.
$(OWN_IMAGE): $(wildcard drivers/image/small/*) | build
	build/berth image build --hostd build/hostd --output $@

.PHONY: demo
demo: setup build image ## Create a VM, install hostd on it, run containers there
	@tests/demo

.PHONY: test
test: setup build image ## Run all tests: unit, integration, end to end
	@tests/run

.PHONY: fields
fields: setup build ## Write the table of a create request's fields, from what hostd does with them
	@BERTH_FIELDS=--write tests/run --test docker_py the_table_of_fields

.PHONY: lint
lint: ## Check formatting, clippy, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@tests/deny

.PHONY: bench
bench: setup build ## Measure hostd side by side with other engines of this machine
	@tests/bench/run

.PHONY: bench-ways
bench-ways: setup build ## Measure the ways to an engine: TLS, SSH, the proxy
	@tests/bench/ways

.PHONY: bench-machine
bench-machine: setup image ## Measure how soon a machine is there, side by side with a bare kernel
	@tests/bench/machine

.PHONY: compare
compare: setup build ## Ask hostd and this machine's dockerd the same, and tell what differs (or CASES="lists df")
	@tests/busybox-image build/busybox.tar
	@tests/compare/run $(CASES)

.PHONY: crash
crash: setup build ## Kill hostd and shims at random moments under load, 400 times over
	@tests/busybox-image build/busybox.tar
	BERTH_CRASH_ROUNDS=400 BERTH_TEST_HOSTD=$(CURDIR)/build/hostd BERTH_TEST_BUSYBOX=$(CURDIR)/build/busybox.tar \
		$(CARGO) test --locked -p e2e --test crash -- --nocapture

.PHONY: guest
guest: setup build ## Run the engine's tests inside a VM, on cgroup v2 (or CGROUPS=hybrid, CGROUPS=v1, DRIVER=systemd, SELINUX=1, SUITES="limits users=exec")
	@CGROUPS=$(CGROUPS) DRIVER=$(DRIVER) SELINUX=$(SELINUX) tests/guest $(SUITES)

.PHONY: profile
profile: setup build ## Show where the milliseconds of a start go (or SUBJECT=exec, SUBJECT=stop)
	@tests/busybox-image build/busybox.tar
	@tests/bench/profile build/hostd build/busybox.tar $(or $(SUBJECT),start)

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
	rm -rf build
