# `make demo` shows the whole, `make test` checks it. Both need a Rust toolchain alone, and install what is missing.

CARGO ?= cargo
# How long `make fuzz` thinks up inputs for each target.
SECONDS ?= 60

# Of `make torture`: rounds in all, how many of them side by side, and how long each target is fuzzed after them.
ROUNDS ?= 20
JOBS ?= 3
FUZZED ?= 5

.PHONY: help build test check test-valkey torture pressure demo fuzz instructions redis valkey deny fmt lint

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program: target/release/pregon
	$(CARGO) build --release --locked

# Most tests wait for a server more than they compute: with twice as many threads as cores, the promises take half the time.
test: export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
test: redis deny ## Check licences, format, lints and docs, and run every test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(CARGO) test --locked --workspace

check: ## While you work: format, lints, unit tests and the arrows between rooms
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib
	$(CARGO) test --locked --test repository

# SEED=… repeats a run; with ROUNDS=1 the one round of that seed, and nothing else. FAULT=… plays only rounds that have a fault
# with these words in its name. DOCUMENT=… puts the report there.
torture: redis ## Break things around running campaigns, at random: make torture ROUNDS=20
	PREGON_TORTURE_ROUNDS=$(ROUNDS) PREGON_TORTURE_JOBS=$(JOBS) $(if $(SEED),PREGON_TEST_SEED=$(SEED)) \
	$(if $(FAULT),PREGON_TORTURE_FAULT="$(FAULT)") \
	$(if $(DOCUMENT),PREGON_TORTURE_DOCUMENT=$(abspath $(DOCUMENT))) $(CARGO) test --locked --test torture -- \
	--ignored --nocapture
	$(if $(FAULT)$(filter 1,$(ROUNDS)),,$(MAKE) fuzz SECONDS=$(FUZZED))

pressure: redis ## Let more come than can be taken, and print how much was pushed back and how memory grew
	$(CARGO) test --locked --test pressure -- --ignored --nocapture

demo: redis ## Send a campaign to a stand-in for Meta, and check the result
	$(CARGO) run --release --locked -- demo

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# On the stable toolchain, so without a sanitizer: there is no `unsafe` here. What is found is kept in fuzz/target; what
# falls is printed, and belongs into fuzz/corpus.
fuzz: ## Think up bad input for everything that parses: SECONDS=60 each
	$(CARGO) fuzz --version || $(CARGO) install --locked cargo-fuzz
	@set -eu; for target in $$($(CARGO) fuzz list); do \
		mkdir -p fuzz/target/corpus/$$target; \
		echo "fuzzing $$target for $(SECONDS) s"; \
		$(CARGO) fuzz run --sanitizer none $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1; \
	done

# Not a part of `make test`: it needs valgrind and a release build, and its counts hold for one compiler on one kind of
# processor. What holds everywhere is in tests/guard.rs.
instructions: ## Count the instructions of the hot paths, and compare them with the known counts
	$(CARGO) bench --locked --bench instructions

# What has come into Cargo.lock: allowed licences and sources alone, nothing that deny.toml bans. Built without optimising
# where it is missing, which takes a minute instead of five. Known weaknesses need a database from elsewhere, and change
# without a change of ours: `cargo deny check advisories`.
deny: ## Check what it is built of; installs cargo-deny where it is missing
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --debug cargo-deny@0.20.2
	$(CARGO) deny --locked check licenses bans sources
	@$(CARGO) metadata --locked --quiet --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null || \
		{ echo "fuzz/Cargo.lock is behind Cargo.toml: run cargo update --workspace --manifest-path fuzz/Cargo.toml" >&2; exit 1; }

# The tests of what differs between servers, on Valkey: it stands first in PATH under the name of redis-server.
test-valkey: valkey ## Run the tests of Redis' deployments, restarts and take-overs on Valkey
	PATH="$(CURDIR)/target/valkey/bin:$$PATH" $(CARGO) test --locked --test deployments --test rates --test torture
	PATH="$(CURDIR)/target/valkey/bin:$$PATH" $(CARGO) test --locked --test promises -- redis:: dispatch::hostile::

valkey: ## Make Valkey available in target/valkey; the system stays as it is
	@sh tests/valkey.sh target/valkey

# The tests and the demo start servers of their own: nothing has to run, the program only has to be there.
redis: ## Install redis-server where it is missing (apt-get, dnf, apk or brew)
	@set -eu; \
	if command -v redis-server >/dev/null; then exit 0; fi; \
	as_root() { \
		if [ "$$(id -u)" -eq 0 ]; then "$$@"; \
		elif command -v sudo >/dev/null; then sudo "$$@"; \
		else echo "redis-server is missing, and installing it needs root: run as root: $$*" >&2; exit 1; fi; \
	}; \
	if command -v brew >/dev/null; then \
		echo "installing redis by brew"; brew install redis; \
	elif command -v apt-get >/dev/null; then \
		echo "installing redis-server by apt-get"; as_root apt-get update -q; \
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends redis-server; \
	elif command -v dnf >/dev/null; then \
		echo "installing redis by dnf"; as_root dnf install -y redis; \
	elif command -v apk >/dev/null; then \
		echo "installing redis by apk"; as_root apk add redis; \
	else \
		echo "redis-server is missing, and there is no apt-get, dnf, apk or brew: install Redis 7.0 or newer, or Valkey 7.2 or newer" >&2; exit 1; \
	fi; \
	redis-server --version
