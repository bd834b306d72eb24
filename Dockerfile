# SPDX-License-Identifier: Apache-2.0
#
# The manager with all that it runs, and nothing else: QEMU for both
# architectures, their firmware, iPXE, and the guests' programs. For hosts with
# an engine and a registry ("make docker-build"); "make image" makes the same
# out of Debian's packages with neither.
#
# BASE is a Debian 13. One that has QEMU already, such as a root made by
# mmdebstrap, is taken as it is and nothing is fetched. TARGETARCH is what
# BuildKit sets it to for --platform: an image for another architecture than this
# host's needs that architecture's programs to run here (binfmt_misc).
ARG BASE=debian:trixie-slim
FROM ${BASE} AS root
COPY hack/image/prepare.sh /prepare.sh
RUN /prepare.sh && rm /prepare.sh

FROM scratch
ARG TARGETARCH
COPY --from=root / /
COPY bin/manager-linux-${TARGETARCH} /usr/lib/pxelab/manager
COPY bin/netbootd-linux-amd64 bin/netbootd-linux-arm64 bin/installer-linux-amd64 bin/installer-linux-arm64 /usr/lib/pxelab/
LABEL org.opencontainers.image.title="pxelab manager" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/usr/lib/pxelab/manager"]
