# SPDX-License-Identifier: Apache-2.0
#
# Works with GNU make 3.81 (macOS) and later. "make help" lists the targets.

SHELL := /usr/bin/env bash -euo pipefail
.DEFAULT_GOAL := help

# When the first make of a run started, for the section headings.
ifndef PXELAB_STARTED
export PXELAB_STARTED := $(shell date +%s)
endif
section = @printf '\n==== %s [%d s]\n' '$(1)' $$(($$(date +%s) - $(PXELAB_STARTED)))

DATA_DIR := $(or $(PXELAB_DATA_DIR),$(or $(XDG_DATA_HOME),$(HOME)/.local/share)/pxelab)
CACHE_DIR := $(or $(PXELAB_CACHE_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pxelab)

BIN := $(CURDIR)/bin
# The same flags everywhere, so that all builds and the linters share the build
# cache. Binaries contain no paths, and no cgo except under the race detector.
export CGO_ENABLED := 0
export GOFLAGS := $(filter-out -trimpath,$(shell go env GOFLAGS 2>/dev/null)) -trimpath
# Host programs contain the commit, even if GOFLAGS disables that. Git does not
# describe a checkout that it does not trust (safe.directory), in which the go command
# would fail, or sources without a checkout. The go command ignores worktrees, which
# is why the linker gets the description as well.
VERSION = $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null)
STATIC = go build -buildvcs=$(if $(VERSION),auto,false) -ldflags '-s -w -X github.com/pxelab/pxelab/internal/version.tag=$(VERSION)'
# Guest programs are identified by digest: a commit that does not touch them must
# not change them.
GUEST := GOOS=linux go build -trimpath -buildvcs=false -ldflags '-s -w'

# Packages whose tests run guests.
GUEST_TESTS := ./internal/qemu ./internal/qemu/qemutest ./internal/installer
TEST_FLAGS ?=
FUZZTIME ?= 60s
# The faults of "make test-faults" (all if empty), a directory that keeps their lab
# for the next run, and a file for the table.
FAULTS ?=
FAULTS_DIR ?=
FAULTS_TABLE ?=
# The faults of "make test", a regular expression over "NAME in PHASE": one for
# each recovery path. "make test-all" runs all of them.
#   two managers          refused by the data directory, and by the cluster's lease
#   manager killed        machines are adopted while an installation runs
#   L2 switch away        the guests' own retries
#   target's QEMU killed  the installation starts again
#   simulated             the reason of each simulated fault, except NoPhoneHome and
#                         NoSSH, which take ten and five minutes without a disturbance
#   netbootd killed       systemd, and netbootd's saved state
#   provisioning QEMU     the server's disk, and the installer's retries; "QEMU killed in
#                         Installing" selects it too
#   data directory full   QEMU pauses the guest and resumes it
#   everything killed     a host crash; recycled PIDs are left alone
#   afterwards            not a fault: the end-to-end test of the remaining lab
TEST_FAULTS := two managers|manager killed in Installing|L2 switch away|QEMU killed in Installing|simulated [^N]|simulated No[DR]|netbootd killed|data directory full in Installing|everything killed|afterwards
# The manager's container image, its architecture, its base image (docker-build),
# and the overlay of config that deploys it; empty selects a suitable one.
IMG ?= pxelab/manager:dev
IMAGE_ARCH ?= $(shell go env GOARCH)
BASE ?= debian:trixie-slim
OVERLAY ?=
# What "make up" installs: auto, ubuntu, debian, or a directory of manifests.
SAMPLES ?= auto
LAB_FLAGS ?=
# The cluster of "make kind-up", and the image of its node: auto, kind, own or a name.
KIND_NAME ?= pxelab
KIND_NODE_IMAGE ?= auto
KIND_FLAGS ?=

##@ Daily use

.PHONY: help
help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { group[++n] = substr($$0, 5) } \
	  /^[a-zA-Z0-9_-]+:.*## / { name[++n] = $$1; text[n] = $$2; if (length($$1) > width) width = length($$1) } \
	  END { for (i = 1; i <= n; i++) if (i in group) printf "\n%s\n", group[i]; else printf "  %-" width "s  %s\n", name[i], text[i] }' $(MAKEFILE_LIST)

.PHONY: up
up: $(BIN)/lab ## Start the lab and wait until its machines are Ready (SAMPLES=auto|ubuntu|debian|DIR)
	@chosen=$$($(BIN)/lab samples --samples=$(SAMPLES)); \
	case "$${chosen%/}" in debian | config/samples/simulated) images=images ;; *) images= ;; esac; \
	hack/deps/install.sh run $$images; \
	$(MAKE) --no-print-directory -j3 controlplane build $$images; \
	if [ -x "$$chosen/files.sh" ]; then "$$chosen/files.sh" >/dev/null; fi; \
	$(BIN)/lab up --samples="$$chosen" $(LAB_FLAGS)

.PHONY: down
down: $(BIN)/lab ## Stop all processes of the lab; keep objects, disks and images
	@$(BIN)/lab down

.PHONY: status
status: $(BIN)/lab ## Show which lab processes are running
	@$(BIN)/lab status

.PHONY: kubeconfig
kubeconfig: ## Print the path of the lab's kubeconfig
	@echo '$(DATA_DIR)/controlplane/kubeconfig'

.PHONY: clean
clean: $(BIN)/lab ## Stop the lab and remove its data: objects, disks, artifacts, bin/
	@$(BIN)/lab clean
	rm -rf $(BIN)

.PHONY: distclean
distclean: clean $(BIN)/kind-lab ## Clean, and remove the cache: images, control plane, tools, cluster
	@$(BIN)/kind-lab clean --name='$(KIND_NAME)'
	rm -rf $(BIN)
	rm -rf '$(CACHE_DIR)'

##@ Cluster

.PHONY: kind-up
kind-up: $(BIN)/kind-lab ## Create or restart a cluster in a container with kind (KIND_NODE_IMAGE=auto|kind|own|NAME)
	@image=$$($(BIN)/kind-lab node-image --name='$(KIND_NAME)' --node-image='$(KIND_NODE_IMAGE)'); \
	if [ "$$image" = own ]; then $(MAKE) --no-print-directory kind-node-image; fi; \
	$(BIN)/kind-lab up --name='$(KIND_NAME)' --node-image="$$image" $(KIND_FLAGS)

.PHONY: kind-load
kind-load: $(BIN)/kind-lab ## Load an image into the cluster's node (IMG=name or archive)
	@$(BIN)/kind-lab load --name='$(KIND_NAME)' '$(IMG)'

.PHONY: kind-kubeconfig
kind-kubeconfig: $(BIN)/kind-lab ## Print the path of the cluster's kubeconfig
	@$(BIN)/kind-lab kubeconfig --name='$(KIND_NAME)'

.PHONY: kind-down
kind-down: $(BIN)/kind-lab ## Remove the cluster and everything created for it
	@$(BIN)/kind-lab down --name='$(KIND_NAME)'

.PHONY: build-image
build-image: build-guest
	for program in manager simulator; do \
	  GOOS=linux GOARCH=$(IMAGE_ARCH) $(STATIC) -o $(BIN)/$$program-linux-$(IMAGE_ARCH) ./cmd/$$program; \
	done

.PHONY: image
image: build-image ## Build the manager's container image from Debian packages, without an engine (IMG=NAME:TAG)
	@hack/deps/install.sh images
	@images/manager/build.sh '$(IMG)' $(BIN)/manager.image.tar

.PHONY: docker-build
docker-build: build-image ## Build the manager's container image with Docker (IMG=NAME:TAG, BASE=IMAGE)
	docker build --platform=linux/$(IMAGE_ARCH) --build-arg BASE=$(BASE) --build-arg TARGETARCH=$(IMAGE_ARCH) -t '$(IMG)' .

.PHONY: build-installer
build-installer: $(BIN)/kustomize ## Write dist/install.yaml, for "kubectl apply -f" (IMG=NAME:TAG, OVERLAY=default|kvm|namespaced)
	@mkdir -p dist
	@hack/deploy.sh render '$(IMG)' $(OVERLAY) >dist/install.yaml
	@echo "wrote dist/install.yaml"

.PHONY: deploy
deploy: $(BIN)/kustomize $(BIN)/kind-lab ## Deploy the manager to the cluster (IMG=NAME:TAG, OVERLAY=default|kind|kvm|namespaced; builds and loads the image for "make kind-up")
	@KIND_NAME='$(KIND_NAME)' hack/deploy.sh up '$(IMG)' $(OVERLAY)

.PHONY: undeploy
undeploy: $(BIN)/kustomize ## Remove every lab and the manager from the cluster
	@KIND_NAME='$(KIND_NAME)' hack/deploy.sh down '$(IMG)' $(OVERLAY)

##@ Build

.PHONY: deps
deps: ## Install missing system packages (apt or brew)
	@hack/deps/install.sh

.PHONY: build
build: build-host build-guest ## Build all programs except the control plane into bin/

.PHONY: build-host
build-host: $(BIN)/lab
	@mkdir -p $(BIN)
	$(STATIC) -o $(BIN)/ ./cmd/manager ./cmd/simulator ./cmd/kubectl-lab

.PHONY: build-guest
build-guest:
	@mkdir -p $(BIN)
	for arch in arm64 amd64; do \
	  for program in netbootd installer; do \
	    GOARCH=$$arch $(GUEST) -o $(BIN)/$$program-linux-$$arch ./cmd/$$program; \
	  done; \
	done

# Phony, so that the go command decides what is out of date.
.PHONY: $(BIN)/lab
$(BIN)/lab:
	@mkdir -p $(BIN)
	@$(STATIC) -o $(BIN)/lab ./cmd/lab

.PHONY: controlplane
controlplane: ## Build the embedded control plane or take it from the cache
	@cmd/controlplane/build.sh $(BIN)
	@command -v kubectl >/dev/null || [ -L $(BIN)/kubectl ] || ln -s controlplane $(BIN)/kubectl

.PHONY: images
images: ## Build the Debian images from packages or take them from the cache
	@images/guest/build.sh '$(CACHE_DIR)/images'

.PHONY: $(BIN)/kind-lab
$(BIN)/kind-lab:
	@mkdir -p $(BIN)
	@$(STATIC) -o $(BIN)/kind-lab ./cmd/kind-lab

.PHONY: kind-node-image
kind-node-image: controlplane ## Build a node image for kind from packages or take it from the cache (Linux)
	@hack/deps/install.sh kind-node
	@images/kind-node/build.sh $(BIN)

# Builds the node image if "make kind-up" would use one that is built here.
.PHONY: kind-node
kind-node: $(BIN)/kind-lab
	@if [ "$$($(BIN)/kind-lab node-image --node-image='$(KIND_NODE_IMAGE)')" = own ]; then $(MAKE) --no-print-directory kind-node-image; fi

.PHONY: build-darwin
build-darwin: ## Check that everything compiles for macOS
	GOOS=darwin GOARCH=arm64 go build ./...
	@# The rest of the nested module is Kubernetes, which takes minutes to compile.
	@mkdir -p $(BIN)
	go build -o $(BIN)/typecheck ./hack/typecheck
	cd cmd/controlplane && GOOS=darwin GOARCH=arm64 $(BIN)/typecheck ./...

##@ Develop

.PHONY: generate
generate: $(BIN)/controller-gen $(BIN)/crd-ref-docs ## Generate deep copies, CRDs, RBAC and the API reference
	hack/generate.sh $(BIN) .

.PHONY: manifests
manifests: generate ## Alias of generate

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w $$(git ls-files '*.go')

.PHONY: vet
vet: ## Run go vet for macOS and in the control plane's module; lint covers the rest
	GOOS=darwin GOARCH=arm64 go vet ./...
	@# The rest of the nested module is Kubernetes, whose analysis takes minutes;
	@# building it is enough.
	cd cmd/controlplane && go vet ./internal/...

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters, including the import rules
	@for package in $$(go list ./internal/...); do \
	  grep -qF "**/$${package#github.com/pxelab/pxelab/}/*.go" .golangci.yml || \
	    { echo ".golangci.yml has no import rule for $$package; add one"; exit 1; }; \
	done
	$(BIN)/golangci-lint run ./...

$(BIN)/controller-gen $(BIN)/crd-ref-docs $(BIN)/golangci-lint $(BIN)/kustomize: hack/tools/build.sh hack/tools/go.sum hack/tools/golangci-lint/go.sum
	@hack/tools/build.sh $(BIN) $(@F)

##@ Test

.PHONY: test
test: deps ## Run what CI runs: checks, unit tests, linters, guests, some faults (TEST_FAULTS), a lab in a cluster
	@$(MAKE) --no-print-directory check
	@# Building the images keeps one core busy.
	@$(MAKE) --no-print-directory -j2 images programs
	@# A lab mostly runs one guest or waits. The two labs run one after the other,
	@# because many guests at once slow each other down. The rest runs beside them, and
	@# the cluster's images take ten minutes of one core without a cache.
	@$(MAKE) --no-print-directory -j3 test-labs test-parts FAULTS='$(or $(FAULTS),$(TEST_FAULTS))'
	$(call section,all passed)

# The soak is smaller than the default of "make soak". Up to 26 minutes of it are spent
# waiting until client-go has forgotten old Events.
.PHONY: test-all
test-all: deps ## Run what test leaves out: every fault, the full load, then a smaller soak beside fuzzing
	@$(MAKE) --no-print-directory -j2 images programs
	@PXELAB_FAULTS_FULL=1 $(MAKE) --no-print-directory test-faults
	@$(MAKE) --no-print-directory test-load
	@$(MAKE) --no-print-directory -j2 soak fuzz \
	  SOAK_TARGETS=$(or $(SOAK_TARGETS),200) SOAK_ROUNDS=$(or $(SOAK_ROUNDS),3) SOAK_FILL=$(or $(SOAK_FILL),2) FUZZTIME=45s
	$(call section,all passed)

.PHONY: check
check: ## Run the quick checks: formatting, generated files, kustomizations, alerts, plain English
	$(call section,formatting)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then printf 'run "make fmt", these files need it:\n%s\n' "$$unformatted"; exit 1; fi
	$(call section,generated files)
	@$(MAKE) --no-print-directory check-generated check-kustomize
	$(call section,alerts)
	@$(MAKE) --no-print-directory check-alerts
	$(call section,plain English)
	@go run ./hack/prose
	@bash -n hack/release.sh

.PHONY: check-generated
check-generated: $(BIN)/controller-gen $(BIN)/crd-ref-docs
	hack/generate.sh --check $(BIN)

.PHONY: check-kustomize
check-kustomize: $(BIN)/kustomize
	@for dir in config/crd config/default config/kind config/kvm config/namespaced config/prometheus; do $(BIN)/kustomize build $$dir >/dev/null; echo "$$dir builds"; done

.PHONY: check-alerts
check-alerts: ## Check the alert rules and run their tests (promtool)
	@command -v promtool >/dev/null || { echo 'promtool is missing; run "make deps"'; exit 1; }
	@mkdir -p $(BIN)/alerts
	@go run ./hack/alerts config/prometheus/rules.yaml $(BIN)/alerts/rules.yaml
	@cp config/prometheus/rules_test.yaml $(BIN)/alerts/
	promtool check rules $(BIN)/alerts/rules.yaml
	promtool test rules $(BIN)/alerts/rules_test.yaml

.PHONY: programs
programs:
	$(call section,control plane)
	@$(MAKE) --no-print-directory controlplane
	$(call section,programs)
	@$(MAKE) --no-print-directory build

.PHONY: test-host
test-host: programs ## Run what needs no guest: vet, unit tests, envtest, macOS, linters
	@$(MAKE) --no-print-directory test-code test-static

.PHONY: test-code
test-code:
	$(call section,vet)
	@$(MAKE) --no-print-directory vet
	$(call section,tests without guests)
	@$(MAKE) --no-print-directory test-unit

.PHONY: test-static
test-static:
	$(call section,macOS)
	@$(MAKE) --no-print-directory build-darwin
	$(call section,linters)
	@$(MAKE) --no-print-directory lint

# The linters run here because the parts beside the labs take longer than the labs.
.PHONY: test-labs
test-labs: test-faults cluster-images
	@$(MAKE) --no-print-directory test-in-cluster
	@nice $(MAKE) --no-print-directory test-static

# Runs beside "test-labs" and builds the same programs; the go command leaves those
# that are up to date unchanged.
.PHONY: test-parts
test-parts:
	@nice $(MAKE) --no-print-directory test-code
	@nice $(MAKE) --no-print-directory test-guests

.PHONY: cluster-images
cluster-images:
	@nice $(MAKE) --no-print-directory kind-node image

.PHONY: test-unit
test-unit: controlplane build-guest $(BIN)/kustomize ## Run the tests that need no guest, including envtest
	CGO_ENABLED=1 KUBEBUILDER_ASSETS=$(BIN)/envtest go test -race -p 2 -timeout 30m $(TEST_FLAGS) \
	  $$(go list ./... | grep -vxFf <(go list $(GUEST_TESTS)) | grep -vE '/test/(e2e|kind)(/|$$)')
	CGO_ENABLED=1 go test -race -count=1 -skip '^Test(Lab|Faults|Cluster)$$' -timeout 30m $(TEST_FLAGS) ./test/e2e
	cd cmd/controlplane && CGO_ENABLED=1 go test -race -timeout 30m $(TEST_FLAGS) ./internal/...

.PHONY: test-guests
test-guests: build-guest images ## Run the tests of single parts on guests, and of the images
	$(call section,tests with guests)
	go test -tags images $(TEST_FLAGS) ./test/images
	CGO_ENABLED=1 go test -race -p 1 -timeout 60m $(TEST_FLAGS) $(GUEST_TESTS)

.PHONY: test-e2e
test-e2e: controlplane build images ## Run the end-to-end test of a lab on guests, as test-faults does at its end
	$(call section,end to end)
	go test -count=1 -p 1 -timeout 80m -v -run '^TestLab$$' $(TEST_FLAGS) ./test/e2e

.PHONY: test-faults
test-faults: controlplane build images ## Inject every fault into a lab on guests and check recovery (FAULTS=REGEXP, FAULTS_DIR=DIR keeps the lab)
	$(call section,faults)
	@# The table is printed again at the end of a failed run, after the test's log.
	@table='$(abspath $(or $(FAULTS_TABLE),$(BIN)/faults.txt))'; rm -f "$$table"; \
	PXELAB_FAULTS_DIR='$(FAULTS_DIR)' PXELAB_FAULTS_TABLE="$$table" \
	  go test -count=1 -p 1 -timeout 80m -v -run '^TestFaults$$/($(subst ','\'',$(FAULTS)))' $(TEST_FLAGS) ./test/e2e || \
	  { [ ! -f "$$table" ] || cat "$$table"; exit 1; }

.PHONY: test-kind
test-kind: controlplane build-host images $(BIN)/kind-lab $(BIN)/kustomize ## Run the end-to-end test in the cluster of "make kind-up deploy", on guests
	$(call section,end to end in a cluster)
	PXELAB_E2E_KUBECONFIG="$$($(BIN)/kind-lab kubeconfig --name='$(KIND_NAME)')" \
	  go test -count=1 -timeout 80m -v -run '^TestCluster$$' $(TEST_FLAGS) ./test/e2e

# Creates a dedicated cluster, so that the user's is not touched. The goals run one
# after the other even with -j.
.PHONY: test-in-cluster
test-in-cluster: ## Create a kind cluster, run the end-to-end test in it, and remove it
	$(call section,cluster)
	@unset KUBECONFIG; \
	each() { for goal; do $(MAKE) --no-print-directory "$$goal" KIND_NAME=pxelab-test || return; done; }; \
	down() { each kind-down; }; \
	if each kind-down kind-up deploy test-kind undeploy; then down; else \
	  $(BIN)/kind-lab logs --name=pxelab-test $(BIN)/kind-logs || true; down || true; exit 1; fi

.PHONY: test-kind-node
test-kind-node: kind-node ## Create and remove a kind cluster from scratch
	$(call section,cluster in a container)
	PXELAB_KIND_NODE_IMAGE='$(KIND_NODE_IMAGE)' go test -count=1 -timeout 30m -v $(TEST_FLAGS) ./test/kind

.PHONY: test-load
test-load: controlplane ## Run the tests of independence and cost with up to 500 targets without guests
	$(call section,load)
	LOAD=full KUBEBUILDER_ASSETS=$(BIN)/envtest go test -count=1 -timeout 30m -v \
	  -run '^Test(HostileTargetsDelayNoOthers|CostPerTargetIsConstant|RestartWritesNothingForRunningTargets)$$' $(TEST_FLAGS) ./controllers

.PHONY: soak
soak: controlplane ## Install and delete 500 targets ten times and check for leaks (SOAK_TARGETS, SOAK_ROUNDS, SOAK_FILL, SOAK_PROFILES=DIR)
	SOAK_TARGETS=$(or $(SOAK_TARGETS),500) SOAK_ROUNDS=$(or $(SOAK_ROUNDS),10) SOAK_FILL=$(or $(SOAK_FILL),5) KUBEBUILDER_ASSETS=$(BIN)/envtest \
	  go test -count=1 -timeout 10h -v -run '^TestSoak$$' $(TEST_FLAGS) ./controllers

.PHONY: bench
bench: ## Run the benchmarks that need no guest
	go test -run '^$$' -bench . -benchmem $(TEST_FLAGS) $$(go list ./... | grep -vE '/test/(e2e|kind)(/|$$)')

.PHONY: bench-boot
bench-boot: controlplane build images ## Compare a network installation with a boot of the installed disk
	go test -count=1 -timeout 80m -v -run '^$$' -bench Boot -benchtime 1x $(TEST_FLAGS) ./test/e2e

.PHONY: bench-scale
bench-scale: controlplane build images ## Install simulated targets by the hundred and print what they cost (SCALE="10 100 1000")
	PXELAB_SCALE='$(SCALE)' go test -count=1 -timeout 80m -v -run '^$$' -bench Scale -benchtime 1x $(TEST_FLAGS) ./test/e2e

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME
	@hack/fuzz.sh $(FUZZTIME)

##@ Release

.PHONY: release
release: ## Write programs, install.yaml, image, SPDX list and checksums to dist/ (ALLOW_DIRTY=1, RELEASE_IMAGE=0)
	@hack/release.sh check
	@$(MAKE) --no-print-directory controlplane $(BIN)/kustomize
	@if [ "$${RELEASE_IMAGE:-1}" = 1 ]; then hack/deps/install.sh images; fi
	@hack/release.sh write
