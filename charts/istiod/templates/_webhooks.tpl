{{/* One entry a way in which a namespace or pod can ask for a sidecar. Names must differ; selectors never overlap. */}}
{{- define "istiod.webhook" }}
- name: {{ .name }}.sidecar-injector.istio.io
  clientConfig:
    {{- if .Values.sidecarInjectorWebhook.injectionURL }}
    url: {{ .Values.sidecarInjectorWebhook.injectionURL }}
    {{- else }}
    service:
      name: {{ include "istiod.name" . }}
      namespace: {{ .Values.global.istioNamespace }}
      path: /inject
      port: 443
    {{- end }}
  sideEffects: None
  admissionReviewVersions: [v1]
  failurePolicy: Fail
  reinvocationPolicy: {{ .Values.sidecarInjectorWebhook.reinvocationPolicy }}
  rules:
  - operations: [CREATE]
    apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
    scope: Namespaced
  namespaceSelector:
    matchExpressions:
    {{- include "istiod.notOurs" . | nindent 4 }}
    {{- .namespace | nindent 4 }}
  objectSelector:
    matchExpressions:
    {{- .object | nindent 4 }}
{{- end }}
{{/* The webhooks of a revision or a tag. .asks is what a namespace or pod asks for by istio.io/rev; .unnamed says that
those that ask for injection without a name are served too. */}}
{{- define "istiod.webhooks" }}
{{- include "istiod.webhook" (merge (dict "name" "rev.namespace"
  "namespace" (printf "- {key: istio.io/rev, operator: In, values: [%q]}\n- {key: istio-injection, operator: DoesNotExist}" .asks)
  "object" "- {key: sidecar.istio.io/inject, operator: NotIn, values: [\"false\"]}") .) }}
{{- include "istiod.webhook" (merge (dict "name" "rev.object"
  "namespace" "- {key: istio.io/rev, operator: DoesNotExist}\n- {key: istio-injection, operator: DoesNotExist}"
  "object" (printf "- {key: sidecar.istio.io/inject, operator: NotIn, values: [\"false\"]}\n- {key: istio.io/rev, operator: In, values: [%q]}" .asks)) .) }}
{{- if .unnamed }}
{{- include "istiod.webhook" (merge (dict "name" "namespace"
  "namespace" "- {key: istio-injection, operator: In, values: [enabled]}"
  "object" "- {key: sidecar.istio.io/inject, operator: NotIn, values: [\"false\"]}") .) }}
{{- include "istiod.webhook" (merge (dict "name" "object"
  "namespace" "- {key: istio-injection, operator: DoesNotExist}\n- {key: istio.io/rev, operator: DoesNotExist}"
  "object" "- {key: sidecar.istio.io/inject, operator: In, values: [\"true\"]}\n- {key: istio.io/rev, operator: DoesNotExist}") .) }}
{{- if .Values.sidecarInjectorWebhook.enableNamespacesByDefault }}
{{- include "istiod.webhook" (merge (dict "name" "auto"
  "namespace" "- {key: istio-injection, operator: DoesNotExist}\n- {key: istio.io/rev, operator: DoesNotExist}"
  "object" "- {key: sidecar.istio.io/inject, operator: DoesNotExist}\n- {key: istio.io/rev, operator: DoesNotExist}") .) }}
{{- end }}
{{- end }}
{{- end }}
