# SPDX-License-Identifier: Apache-2.0
#
# The manager with its runtime dependencies only: QEMU for both architectures,
# their firmware, iPXE, and the guests' programs. For hosts with a container engine
# and a registry ("make docker-build"); "make image" builds the same image from
# Debian packages without either.
#
# BASE is a Debian 13 image. A base with QEMU, such as a root file system built by
# mmdebstrap, is used without installing packages. BuildKit sets TARGETARCH to the
# architecture of --platform; building for another architecture requires that its
# programs run on this host (binfmt_misc).
ARG BASE=debian:trixie-slim
FROM ${BASE} AS root
COPY images/manager/prepare.sh /prepare.sh
RUN /prepare.sh && rm /prepare.sh

FROM scratch
ARG TARGETARCH
COPY --from=root / /
COPY bin/manager-linux-${TARGETARCH} /usr/lib/pxelab/manager
COPY bin/simulator-linux-${TARGETARCH} /usr/lib/pxelab/simulator
COPY bin/netbootd-linux-amd64 bin/netbootd-linux-arm64 bin/installer-linux-amd64 bin/installer-linux-arm64 /usr/lib/pxelab/
LABEL org.opencontainers.image.title="pxelab manager" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/usr/lib/pxelab/manager"]
