# Everything that a fresh machine needs is set up by the targets that need it:
# a C compiler and mosquitto from Debian's packages, a Wasm target for Rust.

CARGO ?= cargo
FOR ?=
SEED ?=
NAME ?=
DEMO_FLAGS = $(if $(FOR),--for $(FOR))
BIN = target/release/sluicegate
# Without optimisation across the parts of a crate the tests are there six
# minutes earlier. What is run, shown and measured has it.
UNTUNED = --config 'profile.release.lto="off"'

.DEFAULT_GOAL := help
.PHONY: help demo build test chaos lint bench adapters setup first-build deny clean

help: ## Show this list
	@echo "make demo [FOR=60s]   watch a simulated fleet flow through five scripts into five destinations"
	@echo "make test             run all tests (format, lints, units, scripts, end to end)"
	@echo "make chaos [FOR=10m]  break everything at random (SEED=7 again in the same way), fail if anything is lost"
	@echo "make build            leave the release binary at $(BIN)"
	@echo "make bench [NAME=..]  print the figures of the README, or of one benchmark"
	@echo "make adapters         build the official scripts to target/adapters"
	@echo "make lint             format and lints only"
	@echo "make deny             check licences and advisories of the dependencies (needs cargo-deny)"

demo: build ## The main job on the embedded broker
	$(BIN) demo $(DEMO_FLAGS)

build: $(BIN)

.PHONY: $(BIN)
$(BIN): adapters first-build
	@$(CARGO) build --release --locked --workspace --bins

test: setup adapters first-build lint
	$(CARGO) test --release --locked --workspace $(UNTUNED)

chaos: setup build
	CHAOS_FOR=$(or $(FOR),1m) $(if $(SEED),CHAOS_SEED=$(SEED)) $(CARGO) test --release --locked -p sluicegate-tests --test chaos

lint: adapters
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets $(UNTUNED) -- -D warnings
	sh tests/lean.sh

bench: setup build
	$(CARGO) bench --profile release --locked -p sluicegate-tests --bench benches -- $(NAME)

adapters: setup-compiler
	@sh scripts/build.sh

setup: setup-compiler
	@sh tests/setup.sh mosquitto

.PHONY: setup-compiler
setup-compiler:
	@sh tests/setup.sh compiler

first-build:
	@test -e $(BIN) || echo "First build: about 8 minutes on two cores, most of it wasmtime. Later ones take seconds to a minute."

deny:
	$(CARGO) deny --locked check

clean:
	$(CARGO) clean
