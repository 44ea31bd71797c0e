# Needs BuildKit, the default builder since Docker 23. The build installs no packages: the image `rust` has all that it needs.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY migrations migrations
COPY src src
# The cache mounts contain the compiled dependencies, so a change of the sources rebuilds only this crate. Cargo compares
# modification times, and the cache may be newer than the sources, for example after a checkout of an older version. So
# `touch` updates the times of the sources. The tests are not copied, but Cargo.toml names them, so their files must exist.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    mkdir -p tests/it tests/bench && touch tests/it/main.rs tests/bench/main.rs \
    && find src migrations -type f -exec touch {} + \
    && cargo build --release --locked --bin saas \
    && cp target/release/saas /usr/local/bin/saas
# All files of the image: the program, its shared libraries, the CA certificates, the user and group, the order of host name
# lookups, and /tmp. The last command checks that no library is missing.
RUN install -D /usr/local/bin/saas /image/usr/local/bin/saas \
    && ldd /usr/local/bin/saas | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "/image$library"; done \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && echo 'saas:x:10001:10001::/:/sbin/nologin' > /image/etc/passwd \
    && echo 'saas:x:10001:' > /image/etc/group \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && install -d -m 1777 /image/tmp \
    && chroot /image /usr/local/bin/saas --version

FROM scratch
COPY --from=build /image /
# Numbers instead of names, because with `runAsNonRoot`, Kubernetes refuses a name: it may be root.
USER 10001:10001
ENV PATH=/usr/local/bin HOST=0.0.0.0 PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
# Health checks are in compose.yaml: `saas healthcheck` for the API, `saas healthcheck --worker` for a worker.
ENTRYPOINT ["saas"]
CMD ["serve"]
