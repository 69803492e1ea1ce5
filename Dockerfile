# syntax=docker/dockerfile:1
# Runs `pregon` as an unprivileged user, who needs to write nothing. Build: docker build -t pregon .

FROM rust:1-slim-trixie AS build
# The allocator is built from C source with make.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# The dependencies are a separate layer, which is reused when only the sources change. Cargo reads the manifests and
# requires the targets that they name to exist.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY loadtest/Cargo.toml loadtest/
# The allocator is built for one page size. Pages on arm64 have up to 64 kB, and a build for the largest size works
# with all sizes.
ARG TARGETARCH
RUN mkdir -p src benches loadtest/src \
    && touch src/lib.rs loadtest/src/lib.rs \
    && for main in src/main.rs loadtest/src/main.rs; do echo 'fn main() {}' >"$main"; done \
    && sed -n '/^\[\[bench\]\]/{n;s/^name = "\(.*\)"$/benches\/\1.rs/p}' Cargo.toml >benches.txt \
    && xargs touch <benches.txt \
    && if [ "$TARGETARCH" = arm64 ]; then echo 'JEMALLOC_SYS_WITH_LG_PAGE = "16"' >>.cargo/config.toml; fi
RUN cargo build --profile dist --locked --bin pregon

COPY config config
COPY .sqlx .sqlx
COPY src src
# Make the sources newer than the build of the empty files.
RUN touch src/lib.rs src/main.rs \
    && cargo build --profile dist --locked --bin pregon

FROM debian:trixie-slim
# Root certificates, for HTTPS to Meta.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home pregon
COPY --from=build /src/target/dist/pregon /usr/local/bin/pregon
USER 10001

# 8080: API and webhooks. 9464: /metrics, /healthz and /readyz.
# Configure by environment variables (PREGON__REDIS__URL and so on), or mount a file and set PREGON_CONFIG.
EXPOSE 8080 9464
# Checks liveness, not readiness: a process that waits for Redis is healthy, and a restart would not help.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["pregon", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pregon"]
CMD ["serve"]
