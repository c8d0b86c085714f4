# Everything that a fresh machine needs is set up by the targets that need it:
# a C compiler and mosquitto from Debian's packages, a Wasm target for Rust.

CARGO ?= cargo
FOR ?=
SEED ?=
NAME ?=
DEMO_FLAGS = $(if $(FOR),--for $(FOR))
RELEASE = target/release/sluicegate
# Every test program is ended after a time limit (TEST_LIMIT seconds).
LIMIT = --config "target.'cfg(all())'.runner=['sh','$(CURDIR)/tests/limit.sh']"

.DEFAULT_GOAL := help
.PHONY: help demo build test chaos lint bench adapters setup setup-compiler first-build deny clean

help: ## Show this list
	@echo "make demo [FOR=60s]   watch a simulated fleet flow through five scripts into five destinations"
	@echo "make test             run all tests (format, lints, units, scripts, end to end)"
	@echo "make chaos [FOR=10m]  break everything at random, fail if anything is lost (SEED=7 repeats a run)"
	@echo "make build            leave the release binary at $(RELEASE)"
	@echo "make bench [NAME=..]  print the figures of the README, or of one benchmark"
	@echo "make adapters         build the official scripts to target/adapters"
	@echo "make lint             check format and lints only"
	@echo "make deny             check licences and advisories of the dependencies (needs cargo-deny)"

# The demo and the tests share one build, of the dev profile.
demo: adapters first-build ## The main job on the embedded broker
	@$(CARGO) build --locked --workspace --bins
	target/debug/sluicegate demo $(DEMO_FLAGS)

build: adapters
	@$(CARGO) build --release --locked --workspace --bins

test: setup adapters first-build lint
	$(CARGO) test --locked --workspace --no-fail-fast $(LIMIT)

chaos: setup adapters
	$(CARGO) build --locked --workspace --bins
	CHAOS_FOR=$(or $(FOR),1m) $(if $(SEED),CHAOS_SEED=$(SEED)) $(CARGO) test --locked -p sluicegate-tests --test chaos

lint: adapters
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	sh tests/lean.sh

bench: setup build
	$(CARGO) bench --profile release --locked -p sluicegate-tests --bench benches -- $(NAME)

adapters: setup-compiler
	@sh scripts/build.sh

setup: setup-compiler
	@sh tests/setup.sh mosquitto

setup-compiler:
	@sh tests/setup.sh compiler

first-build:
	@test -e target/debug/deps || echo "First build: 12 minutes of CPU time, so 6 to 8 minutes on two cores. Later ones take seconds to a minute."

deny:
	$(CARGO) deny --locked check

clean:
	$(CARGO) clean
