{{- define "istiod.suffix" -}}
{{- if .Values.revision }}-{{ .Values.revision }}{{ end -}}
{{- end -}}
{{- define "istiod.name" -}}istiod{{ include "istiod.suffix" . }}{{- end -}}
{{- define "istiod.clusterName" -}}{{ include "istiod.name" . }}-{{ .Values.global.istioNamespace }}{{- end -}}
{{- define "istiod.rev" -}}{{ .Values.revision | default "default" }}{{- end -}}
{{- define "istiod.selector" -}}
app: istiod
istio.io/rev: {{ include "istiod.rev" . | quote }}
{{- end -}}
{{- define "istiod.labels" -}}
app: istiod
istio: pilot
istio.io/rev: {{ include "istiod.rev" . | quote }}
{{- end -}}
{{/* The image of a component: a name with a slash is a whole reference. */}}
{{- define "istiod.image" -}}
{{- $p := .Values.pilot -}}
{{- if contains "/" ($p.image | default "pilot") -}}
{{ $p.image }}
{{- else -}}
{{ $p.hub | default .Values.global.hub }}/{{ $p.image | default "pilot" }}:{{ $p.tag | default .Values.global.tag }}
{{- end -}}
{{- end -}}
{{/* The selector that keeps the mesh's own and the system's namespaces out of every webhook. */}}
{{- define "istiod.notOurs" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: [{{ .Values.global.istioNamespace }}, kube-system, kube-public, kube-node-lease, local-path-storage, istio-operator]
{{- end -}}
