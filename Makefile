# Slipway: what a newcomer needs. `make help` lists it.

SHELL := /bin/bash
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
OUT := $(CARGO_TARGET_DIR)/slipway
BINARIES := $(OUT)/bin
LIVEOS_FLAVOUR ?= cloud
export SLIPWAY_BINARIES := $(BINARIES)
export SLIPWAY_LIVEOS_DIR := $(OUT)/liveos-$(LIVEOS_FLAVOUR)
export SLIPWAY_GUESTS := $(OUT)/guests
EDGE_PROFILE ?= release
EDGE_OUT := $(OUT)/edge
export SLIPWAY_EDGE_IMAGE := $(EDGE_OUT)/slipway-edge.raw
export SLIPWAY_SCHEMATHESIS := $(OUT)/python/bin/schemathesis
export SLIPWAY_PYTHON := $(OUT)/python-examples/bin/python
NODE := $(OUT)/nodejs/bin
export SLIPWAY_NODE := $(NODE)/node
WEB := control-plane/web
export SLIPWAY_OIDC_PROVIDER := $(OUT)/node/provider.mjs

# Recordings of real devices; what replays them is left out, and named, where they are not there.
export SLIPWAY_FIXTURES ?= $(abspath $(CURDIR)/../shared/fixtures)
TESTS := not test(/^long_/)
ifeq ($(wildcard $(SLIPWAY_FIXTURES)),)
TESTS += and not test(/recorded_/)
endif
FUZZ_SECONDS ?= 600
FLEET ?= --sites 20 --machines 50 --installs 200
SIM ?= --seeds 100000
CARGO_DENY := 0.20.2
ADVISORIES := https://github.com/RustSec/advisory-db

.PHONY: help deps tools build agent web liveos guest-images edge-package edge-image parts demo test test-long bench fuzz fleet deny lint sim man openapi lab-up clean-lab clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

deps: ## Installs what is missing from apt (needs root)
	@deploy/install-deps.sh
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

$(SLIPWAY_SCHEMATHESIS):
	@python3 -m venv $(OUT)/python && $(OUT)/python/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5

$(SLIPWAY_PYTHON):
	@python3 -m venv $(OUT)/python-examples && $(OUT)/python-examples/bin/pip install --quiet --disable-pip-version-check paho-mqtt==2.1.0 cryptography==50.0.2

$(SLIPWAY_OIDC_PROVIDER): $(wildcard control-plane/tests/oidc/*)
	@mkdir -p $(OUT)/node && cp control-plane/tests/oidc/* $(OUT)/node/ && cd $(OUT)/node && npm ci --silent --no-audit --no-fund && touch $@

tools: deps $(SLIPWAY_SCHEMATHESIS) $(SLIPWAY_PYTHON) $(SLIPWAY_OIDC_PROVIDER) ## Installs what the tests need from PyPI and npm, into the target folder

$(WEB)/node_modules: $(WEB)/package-lock.json
	@deploy/node.sh $(OUT)/nodejs
	@cd $(WEB) && PATH="$(NODE):$$PATH" npm ci --no-audit --no-fund --loglevel error && touch node_modules

$(WEB)/dist/index.html: $(WEB)/node_modules docs/openapi.json $(wildcard $(WEB)/*.ts $(WEB)/*.html $(WEB)/package.json) $(shell find $(WEB)/src $(WEB)/public -type f ! -name schema.d.ts)
	@cd $(WEB) && PATH="$(NODE):$$PATH" npm run --silent build

web: deps ## Builds the web UI, which the control plane's build then embeds
	@$(MAKE) -s -o deps $(WEB)/dist/index.html

build: deps web ## Builds the binaries
	cargo build --locked --workspace --bins
	@mkdir -p $(BINARIES)
	@for b in slipway slipway-control-plane slipway-edge slipway-lab slipway-demo slipway-fleet slipway-bench-lists slipway-bench-reconnect; do \
	  install -C $(CARGO_TARGET_DIR)/debug/$$b $(BINARIES)/; done

liveos: deps ## Builds the LiveOS (LIVEOS_FLAVOUR=generic for real hardware) and says where it lies
	@agent=$$(deploy/agent/build.sh) && mkdir -p $(SLIPWAY_LIVEOS_DIR) && deploy/liveos/build.sh $$agent $(SLIPWAY_LIVEOS_DIR) $(LIVEOS_FLAVOUR)
	@ls -l $(SLIPWAY_LIVEOS_DIR)/vmlinuz $(SLIPWAY_LIVEOS_DIR)/initramfs.img

guest-images: deps ## Builds the guest images: a tiny one and a real Debian
	@mkdir -p $(SLIPWAY_GUESTS)
	@deploy/guest/build.sh tiny $(SLIPWAY_GUESTS)
	@deploy/guest/build.sh debian $(SLIPWAY_GUESTS)

edge-package: deps ## Builds the edge's Debian package, with the LiveOS for real hardware, and says where it lies
	cargo build --locked -p slipway-edge --bin slipway-edge --profile $(EDGE_PROFILE)
	@agent=$$(deploy/agent/build.sh) && mkdir -p $(OUT)/liveos-generic && deploy/liveos/build.sh $$agent $(OUT)/liveos-generic generic
	@deploy/edge/package.sh $(CARGO_TARGET_DIR)/$(EDGE_PROFILE:dev=debug)/slipway-edge $(OUT)/liveos-generic $(EDGE_OUT)

edge-image: edge-package ## Builds the disk image of an edge box, to be flashed, and says where it lies (needs root)
	@deploy/edge/image.sh $(EDGE_OUT)/slipway-edge_*_amd64.deb $(EDGE_OUT)

parts: build liveos guest-images

demo: parts ## Starts all of Slipway in a lab, provisions a blank machine, stays up until Ctrl-C (needs root)
	@$(MAKE) -s clean-lab
	@$(BINARIES)/slipway-demo

test: parts tools lint ## Runs every test but the long ones, real PXE installs included (needs root)
	cargo nextest run --locked --workspace -E '$(TESTS)'
	@if [ ! -d "$(SLIPWAY_FIXTURES)" ]; then echo "LEFT OUT, for there are no recordings at $(SLIPWAY_FIXTURES):"; \
	  cargo nextest list --locked --workspace -E 'test(/recorded_/)' 2>/dev/null | grep recorded_; fi

fuzz: deps ## Feeds every parser hostile bytes for FUZZ_SECONDS each, optimised and with all checks
	SLIPWAY_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo nextest run --locked --cargo-profile fuzz -p slipway-protocol -p slipway-bus -p slipway-edge \
	  -p slipway-agent -p slipway-control-plane -E 'test(/fuzzed_|mutated_packets_end_nothing/)' --success-output immediate

test-long: parts edge-image ## Runs the long stories: kills at ten moments, the edge's ready image, and whatever else does not fit into `make test`
	cargo nextest run --locked -p slipway-tests -E 'test(/^long_/)' --no-capture

bench: parts ## Measures; figures are printed, not judged
	@$(BINARIES)/slipway-bench-lists --database sqlite --browser
	@$(BINARIES)/slipway-bench-lists --database postgres
	@$(BINARIES)/slipway-fleet --sites 20 --machines 20 --installs 200
	@$(BINARIES)/slipway-fleet --sites 1 --machines 200 --installs 200 --attack edge
	@$(BINARIES)/slipway-fleet --sites 1 --machines 200 --installs 200 --attack control-plane
	@$(BINARIES)/slipway-bench-reconnect --sites 1000
	@cargo nextest run --locked -p slipway-tests -E 'test(debian_on_bios) | test(debian_on_uefi)' --no-capture 2>&1 | grep -E ' s  \+|PASS|FAIL'

fleet: build ## Simulates a fleet and measures it, as FLEET="--sites 20 --machines 50 --installs 200 --chaos 1" (needs root)
	@$(BINARIES)/slipway-fleet $(FLEET)

sim: ## Runs simulated fault schedules, as SIM="--seeds 100000 --from 0" or SIM="--replay SEED"
	cargo run --locked --release -p slipway-tests --bin slipway-sim -- $(SIM)

deny: ## Holds the dependencies against deny.toml; against known vulnerabilities where their database can be reached
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked --version $(CARGO_DENY) cargo-deny
	@cargo deny --locked check bans licenses sources
	@if timeout 20 git ls-remote --quiet $(ADVISORIES) HEAD >/dev/null 2>&1; then cargo deny --locked check advisories; \
	  else echo "advisories NOT looked at: $(ADVISORIES) cannot be reached from here"; fi

lint: web deny ## Format, lints, the web UI's unit tests, the dependencies
	cargo fmt --all --check
	@cd $(WEB) && PATH="$(NODE):$$PATH" npm run --silent lint && PATH="$(NODE):$$PATH" npm run --silent test
	cargo clippy --locked --workspace --all-targets -- -D warnings

man: build ## Writes the manual pages and says where
	@mkdir -p $(OUT)/man
	@for b in slipway slipway-control-plane slipway-edge; do $(BINARIES)/$$b man $(OUT)/man; done
	@ls -d $(OUT)/man && ls $(OUT)/man | wc -l

openapi: ## Renews docs/openapi.json from the program; review what changed, then commit it
	SLIPWAY_RENEW_OPENAPI=1 cargo nextest run --locked -p slipway-control-plane the_kept_document_is_the_apis_own
	@git diff --stat -- docs/openapi.json

lab-up: build ## Starts a lab with two blank machines to play with
	@$(BINARIES)/slipway-lab up --machines 2 --firmware bios,uefi && $(BINARIES)/slipway-lab status

clean-lab: ## Stops every lab of this machine: no process, namespace or mount is left
	@deploy/lab/clean.sh

clean: clean-lab ## Removes what was built
	rm -rf $(CARGO_TARGET_DIR)
