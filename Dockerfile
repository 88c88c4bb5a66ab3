# zramfs in a container: one static binary and nothing else.
#
#     docker build -t zramfs .
#     docker run --rm --device /dev/fuse --cap-add SYS_ADMIN --cap-add IPC_LOCK zramfs mount --foreground /mnt
#
# With --build-arg PREBUILT=1 the binary build/image/zramfs is taken as it is, and GO_IMAGE may be any
# image with a shell. The integration tests do so, and set BASE to a system with fio and mkfs in it.
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE=scratch

FROM ${GO_IMAGE} AS build
ARG PREBUILT=
WORKDIR /src
COPY . .
RUN if [ -z "$PREBUILT" ]; then \
        CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o build/image/zramfs ./cmd/zramfs; \
    fi

FROM ${BASE}
COPY --from=build /src/build/image/zramfs /usr/bin/zramfs
# A place to mount at, which an image with nothing in it lacks.
WORKDIR /mnt
ENTRYPOINT ["/usr/bin/zramfs"]
