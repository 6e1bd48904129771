#!/usr/bin/env bash
# Prepares what the tests stand on: packages, the Kubernetes binary, Envoy and the images. Run again, it changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
bin/slipway-cluster build
go run ./hack/images >/dev/null
