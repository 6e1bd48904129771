#!/usr/bin/env bash
# Prepares what the tests stand on: packages, the Kubernetes binary, Envoy and the images. Run again, it changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
bin/slipway-cluster build
go run ./hack/images >/dev/null
if ! command -v chromium >/dev/null; then # looks at the control plane's page
  if ! command -v apt-get >/dev/null; then
    echo "chromium is missing, install it by the distribution's means" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
fi
