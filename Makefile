# The commands of this project. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CLUSTER ?= slipway
export CGO_ENABLED ?= 0
# Without gRPC's own traces the linker leaves out what nobody calls: the agent's program is a quarter smaller.
export GOFLAGS ?= -tags=grpcnotrace

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: build ## a real cluster, the operator, a mesh and Bookinfo, on this machine
	CLUSTER=$(CLUSTER) hack/demo.sh

.PHONY: demo-down
demo-down: build ## remove what demo made
	bin/slipway-cluster down --name $(CLUSTER)

.PHONY: build
build: ## build the programs into bin/
	@mkdir -p bin
	go build -trimpath -o bin/ ./cmd/... && go build -trimpath -o bin/operator .
	cd test/cluster && go build -trimpath -o ../../bin/slipway-cluster .

.PHONY: images
images: ## write the container images to dist/images, without Docker or a registry
	go run ./hack/images

.PHONY: test
test: build bin/gotestsum ## all tests, those on a real cluster included; what failed is told last
	hack/setup.sh
	bin/gotestsum --format pkgname --hide-summary skipped -- -count=1 -timeout 30m $$(go list ./... | grep -v -e /test/conformance -e /test/e2e)
	bin/gotestsum --format pkgname --hide-summary skipped -- -count=1 -timeout 60m ./test/conformance # alone, as it counts lost requests
	bin/gotestsum --format pkgname --hide-summary skipped -- -count=1 -timeout 30m ./test/e2e # likewise, and a cluster with a mesh needs a machine for itself
	cd test/monitoring && go test -count=1 ./...

.PHONY: test-unit
test-unit: ## the tests that need neither root nor a cluster
	go test $$(go list ./... | grep -v -e /test/e2e)

.PHONY: test-long
test-long: ## fuzzing; roots that rotate under load; and slipwayd under changes and reconnects: what it holds, and data races
	go test -run '^$$' -fuzz FuzzSetPath -fuzztime 60s ./internal/install/manifest
	go test -run '^$$' -fuzz FuzzParseSet -fuzztime 60s ./internal/install/manifest
	go test -run '^$$' -fuzz FuzzPatch -fuzztime 60s ./internal/discovery/envoy/patch
	go test -run '^$$' -fuzz FuzzUnmarshal -fuzztime 30s ./internal/nametable
	go test -run '^$$' -fuzz FuzzObjects -fuzztime 60s ./test/golden
	go test -run TestRandomObjects -count=1 -timeout 30m ./test/golden -seeds 40000
	go test -run 'TestRotation$$' -count=1 -timeout 30m -v ./test/conformance -soak 10m
	go test -tags bench,grpcnotrace -run 'TestSteady|TestRace' -count=1 -timeout 60m -v ./test/bench

.PHONY: bench
bench: ## the control plane measured from outside, and benchmarks of the pure steps; FULL=1 for the whole grid, SIZES=1000x500,.. for some, PROFILES=DIR for heap profiles, MESHLOAD=PATH to let that drive too
	go test -tags bench,grpcnotrace -run 'TestBench$(if $(MESHLOAD),|TestMeshload)' -count=1 -timeout 60m -v ./test/bench
	go test -tags bench,grpcnotrace -run 'Test(|Injection|Agent)Cost$$' -count=1 -timeout 20m -v ./test/conformance
	go test -run '^$$' -bench . -benchmem ./internal/...

.PHONY: lint
lint: bin/golangci-lint ## vet, format and the linters of .golangci.yml
	bin/golangci-lint run ./...
	cd test/cluster && ../../bin/golangci-lint run --config ../../.golangci.yml . ./pause
	cd test/monitoring && ../../bin/golangci-lint run --config ../../.golangci.yml ./...

bin/golangci-lint: tools/go.mod
	cd tools && go build -o ../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/gotestsum: tools/go.mod
	cd tools && go build -o ../bin/gotestsum gotest.tools/gotestsum

bin/controller-gen: tools/go.mod
	cd tools && go build -o ../bin/controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen

.PHONY: generate
generate: bin/controller-gen ## write the generated code, CRDs and manifests
	bin/controller-gen object paths=./api/...
	bin/controller-gen crd:maxDescLen=0 paths=./api/... output:crd:artifacts:config=config/crd/bases
	go run ./hack/gencrds
	go run ./hack/genbundle
	go run ./hack/genboards
