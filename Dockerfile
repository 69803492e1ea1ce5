# syntax=docker/dockerfile:1
# One program, run as a user without rights. Build: docker build -t pregon .

FROM rust:1-slim-trixie AS build
# For the allocator, which builds as it does everywhere.
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep the dependencies, built, from one image to the next: a change of ours builds our code alone. They are
# no part of the image, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin pregon \
    && cp target/release/pregon /usr/local/bin/pregon

FROM debian:trixie-slim
# Certificates, for HTTPS to Meta.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home pregon
COPY --from=build /usr/local/bin/pregon /usr/local/bin/pregon
USER 10001

# 8080: API and webhooks. 9464: /metrics, /healthz and /readyz, for the probes of an orchestrator, and so there is no
# HEALTHCHECK here. Everything can be set by environment (PREGON__REDIS__URL and so on), or by a file that is mounted
# and named with `serve --config`.
EXPOSE 8080 9464
ENTRYPOINT ["pregon"]
CMD ["serve"]
