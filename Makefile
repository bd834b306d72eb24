# SPDX-License-Identifier: Apache-2.0
#
# Works with GNU make 3.81 (macOS) and later. "make help" lists what there is.

SHELL := /usr/bin/env bash -euo pipefail
.DEFAULT_GOAL := help

# When the first make of a run began, for the section headings.
ifndef PXELAB_STARTED
export PXELAB_STARTED := $(shell date +%s)
endif
section = @printf '\n==== %s [%d s]\n' '$(1)' $$(($$(date +%s) - $(PXELAB_STARTED)))

DATA_DIR := $(or $(PXELAB_DATA_DIR),$(or $(XDG_DATA_HOME),$(HOME)/.local/share)/pxelab)
CACHE_DIR := $(or $(PXELAB_CACHE_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pxelab)

BIN := $(CURDIR)/bin
# The same everywhere, so that all builds and the linters share what is compiled,
# and no binary tells where it was built: without cgo but under the race detector,
# and without paths.
export CGO_ENABLED := 0
export GOFLAGS := $(filter-out -trimpath,$(shell go env GOFLAGS 2>/dev/null)) -trimpath
STATIC := go build -ldflags '-s -w'
# The guests' programs are told apart by digest: a commit that does not touch
# them must not change them.
GUEST := GOOS=linux go build -trimpath -buildvcs=false -ldflags '-s -w'

# Packages whose tests run guests.
GUEST_TESTS := ./internal/qemu/... ./internal/installer/...
TEST_FLAGS ?=
FUZZTIME ?= 60s
# Which faults "make test-faults" tries, a directory that keeps their lab for
# the next run, and a file for the table.
FAULTS ?=
FAULTS_DIR ?=
FAULTS_TABLE ?=
# The manager's container image, for which architecture it is made, on what
# (docker-build), and with which of config's overlays it is deployed; empty for
# what fits.
IMG ?= pxelab/manager:dev
IMAGE_ARCH ?= $(shell go env GOARCH)
BASE ?= debian:trixie-slim
OVERLAY ?=
# What "make up" installs: auto, ubuntu or debian.
SAMPLES ?= auto
LAB_FLAGS ?=
# The cluster of "make kind-up", and the image of its node: auto, kind, own or a name.
KIND_NAME ?= pxelab
KIND_NODE_IMAGE ?= auto
KIND_FLAGS ?=

##@ Use

.PHONY: help
help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-zA-Z0-9_-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: $(BIN)/lab ## Bring the lab up and wait until its machines are Ready (SAMPLES=auto|ubuntu|debian)
	@chosen=$$($(BIN)/lab samples --samples=$(SAMPLES)); \
	if [ "$$chosen" = debian ]; then images=images; else images=; fi; \
	hack/deps/install.sh run $$images; \
	$(MAKE) --no-print-directory -j3 controlplane build $$images; \
	$(BIN)/lab up --samples="$$chosen" $(LAB_FLAGS)

.PHONY: down
down: $(BIN)/lab ## Stop every process of the lab; objects, disks and images stay
	@$(BIN)/lab down

.PHONY: status
status: $(BIN)/lab ## Tell what of the lab runs
	@$(BIN)/lab status

.PHONY: kubeconfig
kubeconfig: ## Print where the lab's kubeconfig is
	@echo '$(DATA_DIR)/controlplane/kubeconfig'

.PHONY: clean
clean: $(BIN)/lab ## Stop the lab and remove all of it: objects, disks, artifacts, bin/
	@$(BIN)/lab clean
	rm -rf $(BIN)

.PHONY: distclean
distclean: clean $(BIN)/kind-lab ## clean, and remove the cache: images, control plane, tools, cluster
	@$(BIN)/kind-lab clean --name='$(KIND_NAME)'
	rm -rf $(BIN)
	rm -rf '$(CACHE_DIR)'

##@ Use in a cluster

.PHONY: kind-up
kind-up: $(BIN)/kind-lab ## Make a cluster in a container by kind, or find it (KIND_NODE_IMAGE=auto|kind|own|NAME)
	@image=$$($(BIN)/kind-lab node-image --name='$(KIND_NAME)' --node-image='$(KIND_NODE_IMAGE)'); \
	if [ "$$image" = own ]; then $(MAKE) --no-print-directory kind-node-image; fi; \
	$(BIN)/kind-lab up --name='$(KIND_NAME)' --node-image="$$image" $(KIND_FLAGS)

.PHONY: kind-load
kind-load: $(BIN)/kind-lab ## Give the cluster's node an image (IMG=name or archive)
	@$(BIN)/kind-lab load --name='$(KIND_NAME)' '$(IMG)'

.PHONY: kind-kubeconfig
kind-kubeconfig: $(BIN)/kind-lab ## Print where the cluster's kubeconfig is
	@$(BIN)/kind-lab kubeconfig --name='$(KIND_NAME)'

.PHONY: kind-down
kind-down: $(BIN)/kind-lab ## Remove the cluster and all that was made for it
	@$(BIN)/kind-lab down --name='$(KIND_NAME)'

.PHONY: build-image
build-image: build-guest
	GOOS=linux GOARCH=$(IMAGE_ARCH) $(STATIC) -o $(BIN)/manager-linux-$(IMAGE_ARCH) ./cmd/manager

.PHONY: image
image: build-image ## Make the manager's container image from Debian's packages, with no engine (IMG=NAME:TAG)
	@hack/deps/install.sh images
	@hack/image/build.sh '$(IMG)' $(BIN)/manager.image.tar

.PHONY: docker-build
docker-build: build-image ## Build the manager's container image with Docker (IMG=NAME:TAG, BASE=IMAGE)
	docker build --platform=linux/$(IMAGE_ARCH) --build-arg BASE=$(BASE) --build-arg TARGETARCH=$(IMAGE_ARCH) -t '$(IMG)' .

.PHONY: build-installer
build-installer: $(BIN)/kustomize ## Write dist/install.yaml: all that "kubectl apply -f" needs (IMG=NAME:TAG, OVERLAY=default|kvm)
	@mkdir -p dist
	@hack/deploy.sh render '$(IMG)' $(OVERLAY) >dist/install.yaml
	@echo "wrote dist/install.yaml"

.PHONY: deploy
deploy: $(BIN)/kustomize $(BIN)/kind-lab ## Put the manager into the cluster (IMG=NAME:TAG, OVERLAY=default|kind|kvm; makes and loads the image for "make kind-up")
	@KIND_NAME='$(KIND_NAME)' hack/deploy.sh up '$(IMG)' $(OVERLAY)

.PHONY: undeploy
undeploy: $(BIN)/kustomize ## Remove every lab and the manager from the cluster
	@KIND_NAME='$(KIND_NAME)' hack/deploy.sh down '$(IMG)' $(OVERLAY)

##@ Build

.PHONY: deps
deps: ## Install the system packages that are missing (apt or brew)
	@hack/deps/install.sh

.PHONY: build
build: build-host build-guest ## Build everything but the control plane into bin/

.PHONY: build-host
build-host: $(BIN)/lab
	@mkdir -p $(BIN)
	$(STATIC) -o $(BIN)/ ./cmd/manager ./cmd/kubectl-lab

.PHONY: build-guest
build-guest:
	@mkdir -p $(BIN)
	for arch in arm64 amd64; do \
	  for program in netbootd installer; do \
	    GOARCH=$$arch $(GUEST) -o $(BIN)/$$program-linux-$$arch ./cmd/$$program; \
	  done; \
	done

# Always asked, so that the go command decides what is out of date.
.PHONY: $(BIN)/lab
$(BIN)/lab:
	@mkdir -p $(BIN)
	@$(STATIC) -o $(BIN)/lab ./hack/lab

.PHONY: controlplane
controlplane: ## Build the embedded control plane, or take it from the cache
	@hack/controlplane/build.sh $(BIN)
	@command -v kubectl >/dev/null || [ -L $(BIN)/kubectl ] || ln -s controlplane $(BIN)/kubectl

.PHONY: images
images: ## Build the Debian images from packages, or take them from the cache
	@hack/images/build.sh '$(CACHE_DIR)/images'

.PHONY: $(BIN)/kind-lab
$(BIN)/kind-lab:
	@mkdir -p $(BIN)
	@$(STATIC) -o $(BIN)/kind-lab ./hack/kind

.PHONY: kind-node-image
kind-node-image: controlplane ## Build a node image for kind from packages, or take it from the cache (Linux)
	@hack/deps/install.sh kind-node
	@hack/kind/node/build.sh $(BIN)

# The node image if "make kind-up" would want one that is made here.
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
manifests: generate ## The same as generate

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w $$(git ls-files '*.go')

.PHONY: vet
vet: ## Run go vet for macOS and in the control plane's module; for the rest, lint does
	GOOS=darwin GOARCH=arm64 go vet ./...
	@# The rest of the nested module is Kubernetes, whose analysis takes minutes;
	@# building it is check enough.
	cd cmd/controlplane && go vet ./internal/...

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters, the import rules among them
	@for package in $$(go list ./internal/...); do \
	  grep -qF "**/$${package#github.com/pxelab/pxelab/}/*.go" .golangci.yml || \
	    { echo ".golangci.yml says nothing of what $$package may import"; exit 1; }; \
	done
	$(BIN)/golangci-lint run ./...

$(BIN)/controller-gen $(BIN)/crd-ref-docs $(BIN)/golangci-lint $(BIN)/kustomize: hack/tools/build.sh hack/tools/go.sum hack/tools/golangci-lint/go.sum
	@hack/tools/build.sh $(BIN) $(@F)

##@ Test

.PHONY: test
test: deps ## All of it, as CI runs it: checks, unit tests, envtest, linters, guests, every fault, the lab in a cluster
	@$(MAKE) --no-print-directory check
	@# One half keeps one core busy with building the images.
	@$(MAKE) --no-print-directory -j2 images programs
	@# A lab is one guest at work for most of the time, or a wait. Beside it goes all
	@# the rest, one after the other: many guests at once wait for each other. Only
	@# the cluster's images, ten minutes of one core if they are not in the cache,
	@# are made meanwhile.
	@$(MAKE) --no-print-directory -j3 test-faults test-rest
	$(call section,all passed)

.PHONY: check
check: ## The quick checks: formatting, generated files, kustomizations
	$(call section,formatting)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then printf 'run "make fmt", these files need it:\n%s\n' "$$unformatted"; exit 1; fi
	$(call section,generated files)
	@$(MAKE) --no-print-directory check-generated check-kustomize

.PHONY: check-generated
check-generated: $(BIN)/controller-gen $(BIN)/crd-ref-docs
	hack/generate.sh --check $(BIN)

.PHONY: check-kustomize
check-kustomize: $(BIN)/kustomize
	@for dir in config/crd config/default config/kind config/kvm config/prometheus; do $(BIN)/kustomize build $$dir >/dev/null; echo "$$dir builds"; done

.PHONY: programs
programs:
	$(call section,control plane)
	@$(MAKE) --no-print-directory controlplane
	$(call section,programs)
	@$(MAKE) --no-print-directory build

.PHONY: test-host
test-host: programs ## What needs no guest: vet, unit tests, envtest, macOS, linters
	@$(MAKE) --no-print-directory test-code

.PHONY: test-code
test-code:
	$(call section,vet)
	@$(MAKE) --no-print-directory vet
	$(call section,tests without guests)
	@$(MAKE) --no-print-directory test-unit
	$(call section,macOS)
	@$(MAKE) --no-print-directory build-darwin
	$(call section,linters)
	@$(MAKE) --no-print-directory lint

# Beside "test-faults", whose programs these build again: the go command leaves
# those alone that are up to date.
.PHONY: test-rest
test-rest: test-parts cluster-images
	@$(MAKE) --no-print-directory test-in-cluster

.PHONY: test-parts
test-parts:
	@nice $(MAKE) --no-print-directory test-code
	@nice $(MAKE) --no-print-directory test-guests

.PHONY: cluster-images
cluster-images:
	@nice $(MAKE) --no-print-directory kind-node image

.PHONY: test-unit
test-unit: controlplane build-guest $(BIN)/kustomize ## Tests that need no guest, envtest included
	CGO_ENABLED=1 KUBEBUILDER_ASSETS=$(BIN)/envtest go test -race -p 2 -timeout 30m $(TEST_FLAGS) \
	  $$(go list ./... | grep -vxFf <(go list $(GUEST_TESTS)) | grep -v /hack/e2e)
	CGO_ENABLED=1 go test -race -count=1 -skip '^Test(Lab|Faults|Cluster)$$' -timeout 30m $(TEST_FLAGS) ./hack/e2e
	cd cmd/controlplane && CGO_ENABLED=1 go test -race -timeout 30m $(TEST_FLAGS) ./internal/...

.PHONY: test-guests
test-guests: build-guest images ## Tests of single parts that run guests, and of the images
	$(call section,tests with guests)
	go test -tags images $(TEST_FLAGS) ./hack/images
	CGO_ENABLED=1 go test -race -p 1 -timeout 60m $(TEST_FLAGS) $(GUEST_TESTS)

.PHONY: test-e2e
test-e2e: controlplane build images ## The whole lab on guests, as test-faults does in its end
	$(call section,end to end)
	go test -count=1 -p 1 -timeout 80m -v -run '^TestLab$$' $(TEST_FLAGS) ./hack/e2e

.PHONY: test-faults
test-faults: controlplane build images ## Let everything die once in a lab (FAULTS=REGEXP for some, FAULTS_DIR= keeps the lab)
	$(call section,faults)
	PXELAB_FAULTS_DIR='$(FAULTS_DIR)' PXELAB_FAULTS_TABLE='$(FAULTS_TABLE)' \
	  go test -count=1 -p 1 -timeout 80m -v -run '^TestFaults$$/($(FAULTS))' $(TEST_FLAGS) ./hack/e2e

.PHONY: test-kind
test-kind: controlplane build-host images $(BIN)/kind-lab $(BIN)/kustomize ## The whole lab in the cluster of "make kind-up deploy", on guests
	$(call section,end to end in a cluster)
	PXELAB_E2E_KUBECONFIG="$$($(BIN)/kind-lab kubeconfig --name='$(KIND_NAME)')" \
	  go test -count=1 -timeout 80m -v -run '^TestCluster$$' $(TEST_FLAGS) ./hack/e2e

# Its own cluster, made anew, so that it leaves the user's alone. One goal after
# the other, whatever -j says.
.PHONY: test-in-cluster
test-in-cluster: ## A cluster by kind, the manager and the whole lab in it, and nothing left of either
	$(call section,cluster)
	@unset KUBECONFIG; \
	each() { for goal; do $(MAKE) --no-print-directory "$$goal" KIND_NAME=pxelab-test || return; done; }; \
	down() { each kind-down; }; \
	if each kind-down kind-up deploy test-kind undeploy; then down; else \
	  $(BIN)/kind-lab logs --name=pxelab-test $(BIN)/kind-logs || true; down || true; exit 1; fi

.PHONY: test-kind-node
test-kind-node: kind-node ## A cluster by kind, from nothing and back to it
	$(call section,cluster in a container)
	PXELAB_KIND_NODE_IMAGE='$(KIND_NODE_IMAGE)' go test -count=1 -timeout 30m -v $(TEST_FLAGS) ./hack/e2e/kind

.PHONY: soak
soak: controlplane ## 500 targets come and go ten times: nothing is left over (SOAK_TARGETS, SOAK_ROUNDS, SOAK_FILL rounds before, SOAK_PROFILES=DIR for what the heap holds)
	SOAK_TARGETS=$(or $(SOAK_TARGETS),500) SOAK_ROUNDS=$(or $(SOAK_ROUNDS),10) SOAK_FILL=$(or $(SOAK_FILL),5) KUBEBUILDER_ASSETS=$(BIN)/envtest \
	  go test -count=1 -timeout 10h -v -run '^TestSoak$$' $(TEST_FLAGS) ./controllers

.PHONY: bench
bench: ## Benchmarks that need no guest
	go test -run '^$$' -bench . -benchmem $(TEST_FLAGS) $$(go list ./... | grep -v /hack/e2e)

.PHONY: bench-boot
bench-boot: controlplane build images ## Time a network install against booting the installed disk
	go test -count=1 -timeout 80m -v -run '^$$' -bench Boot -benchtime 1x $(TEST_FLAGS) ./hack/e2e

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME
	@hack/fuzz.sh $(FUZZTIME)
