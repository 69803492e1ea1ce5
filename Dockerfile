# syntax=docker/dockerfile:1
# Runs `pregon` as an unprivileged user. Build: docker build -t pregon .

FROM rust:1-slim-trixie AS build
# The allocator is built from C source with make.
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The cache mounts keep built dependencies between image builds, so a source change rebuilds only this crate. A cache
# mount is not part of the image, so the binary is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin pregon \
    && cp target/release/pregon /usr/local/bin/pregon

FROM debian:trixie-slim
# Root certificates, for HTTPS to Meta.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home pregon
COPY --from=build /usr/local/bin/pregon /usr/local/bin/pregon
USER 10001

# 8080: API and webhooks. 9464: /metrics, /healthz and /readyz, for an orchestrator to probe; so no HEALTHCHECK here.
# Configure by environment variables (PREGON__REDIS__URL and so on), or mount a file and pass it with `serve --config`.
EXPOSE 8080 9464
ENTRYPOINT ["pregon"]
CMD ["serve"]
