#!/usr/bin/env bash
# The whole story on this machine: a real Kubernetes, the operator, an IstioOperator, a mesh, and Bookinfo through it.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${CLUSTER:-slipway}
began=$SECONDS
current="start"
step() { current=$1; printf '\n\033[1m[%3ds] %s\033[0m\n' $((SECONDS - began)) "$1"; }
if [ ! -t 1 ]; then step() { current=$1; printf '\n[%3ds] %s\n' $((SECONDS - began)) "$1"; }; fi
trap 'printf "\nmake demo failed at: %s\nlook at: bin/slipway-cluster status --name %s; /var/lib/slipway-cluster/%s/log; kubectl get iop,pods -A\n" "$current" "$name" "$name" >&2' ERR

step "the cluster (its first build takes some minutes)"
bin/slipway-cluster up --name "$name"
KUBECONFIG=$(bin/slipway-cluster kubeconfig --name "$name"); export KUBECONFIG
node=$(bin/slipway-cluster binary)
kubectl() { "$node" kubectl "$@"; }

step "the images"
go run ./hack/images >/dev/null
bin/slipway-cluster load --name "$name" dist/images/*.tar

step "slipway operator init"
bin/slipway operator init

step "kubectl apply -f samples/operator/default.yaml"
kubectl apply -f samples/operator/default.yaml
wait_healthy() {
  local last="" now status
  for _ in $(seq 1 300); do
    now=$(kubectl get iop -n istio-system example-istiocontrolplane -o jsonpath='{.status.observedGeneration}/{.metadata.generation} {.status.status} {.status.message}')
    [ "$now" = "$last" ] || [ -z "${now#* }" ] || [ "${now#* }" = " " ] || printf '  %s\n' "${now#* }"
    last=$now
    status=${now#* }; status=${status%% *}
    case $now in
      */*) if [ "$status" = HEALTHY ] && [ "${now%%/*}" = "$(cut -d/ -f2 <<<"${now%% *}")" ]; then return 0; fi ;;
    esac
    sleep 0.5
  done
  return 1
}
wait_healthy
kubectl get iop -n istio-system example-istiocontrolplane -o go-template='{{range $name, $c := .status.componentStatus}}  {{$name}}: {{$c.status}}{{"\n"}}{{end}}'

step "Bookinfo, with a sidecar in every pod"
kubectl label namespace default istio-injection=enabled --overwrite
kubectl apply -f samples/bookinfo/platform/kube/bookinfo.yaml >/dev/null
kubectl apply -f samples/bookinfo/networking/bookinfo-gateway.yaml -f samples/bookinfo/networking/destination-rule-all.yaml
for d in details-v1 ratings-v1 reviews-v1 reviews-v2 reviews-v3 productpage-v1; do kubectl rollout status deployment/$d --timeout=120s >/dev/null; done
kubectl get pods

step "requests through the LoadBalancer address"
ip=$(kubectl get service -n istio-system istio-ingressgateway -o jsonpath='{.status.loadBalancer.ingress[0].ip}')
url="http://$ip/productpage"
for _ in $(seq 1 100); do curl -fsS -m 5 -o /dev/null "$url" 2>/dev/null && break; sleep 0.2; done
curl -fsS -m 5 -o /dev/null -w '  GET /productpage: %{http_code} in %{time_total}s\n' "$url"
served() { curl -fsS -m 10 "$@" "$url" | grep -o 'reviews-v[0-9]' | head -1; }
# A rule is in force when the page shows it; asking at once would count what was on its way before.
settle() { for _ in $(seq 1 100); do [ "$(served "${@:2}")" = "$1" ] && return 0; sleep 0.05; done; return 1; }

step "a 75/25 split between reviews v1 and v3"
kubectl apply -f samples/bookinfo/networking/virtual-service-reviews-75-25.yaml
sleep 1
for _ in $(seq 1 200); do served; done | sort | uniq -c | awk '{printf "  %s: %.1f %% (%d of 200)\n", $2, $1/2, $1}'

step "user jason gets v2, everybody else v3"
kubectl apply -f samples/bookinfo/networking/virtual-service-reviews-jason-v2-v3.yaml
settle reviews-v3
printf '  jason: %s   others: %s\n' "$(served -H 'end-user: jason')" "$(served)"

step "the mesh customised: samples/operator/customised.yaml"
kubectl apply -f samples/operator/customised.yaml
wait_healthy
kubectl get deployment -n istio-system istio-ingressgateway -o jsonpath='  requests of istio-ingressgateway: {.spec.template.spec.containers[0].resources.requests}{"\n"}'
kubectl get pods -n istio-system

cat <<END

Done in $((SECONDS - began)) seconds. Go on with:
  export KUBECONFIG=$KUBECONFIG
  curl $url                      # or open it in a browser on this machine
  kubectl get iop,pods -A
  kubectl apply -f samples/bookinfo/networking/virtual-service-reviews-v3.yaml
  bin/slipway profile dump demo
  make demo-down                 # removes everything again
END
