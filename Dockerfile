# syntax=docker/dockerfile:1

# Builds the dependencies alone. This layer is rebuilt only if Cargo.toml or Cargo.lock changes.
FROM rust:1.95-slim-bookworm AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ make cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it tests/bench \
    && echo 'fn main() {}' | tee src/main.rs src/build.rs tests/it/main.rs tests/bench/main.rs > /dev/null \
    && touch src/lib.rs \
    && cargo build --release --locked --bin saas

FROM dependencies AS build
COPY migrations migrations
COPY src src
# Cargo compares modification times, and the placeholder sources of the first stage may be newer than these files.
RUN find src -name '*.rs' -exec touch {} + && cargo build --release --locked --bin saas

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home saas
COPY --from=build /build/target/release/saas /usr/local/bin/saas
USER saas
ENV HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["saas", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["saas"]
CMD ["serve"]
