{{/* Everything of one gateway. The dict has Values, Release and gateway: the gateway's own values. */}}
{{- define "gateway.objects" -}}
{{ include "gateway.account" . }}
---
{{ include "gateway.deployment" . }}
---
{{ include "gateway.service" . }}
---
{{ include "gateway.autoscale" . }}
---
{{ include "gateway.budget" . }}
{{- end -}}

{{- define "gateway.labels" -}}
{{ toYaml .gateway.labels }}
istio.io/rev: {{ .Values.revision | default "default" | quote }}
{{- end -}}

{{- define "gateway.image" -}}
{{- $image := .gateway.image | default .Values.global.proxy.image -}}
{{- if contains "/" $image -}}
{{ $image }}
{{- else -}}
{{ .gateway.hub | default .Values.global.hub }}/{{ $image }}:{{ .gateway.tag | default .Values.global.tag }}
{{- end -}}
{{- end -}}

{{- define "gateway.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .gateway.serviceAccount | default (printf "%s-service-account" .gateway.name) }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .gateway.name }}-sds
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
rules:
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, watch, list]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .gateway.name }}-sds
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .gateway.name }}-sds
subjects:
- kind: ServiceAccount
  name: {{ .gateway.serviceAccount | default (printf "%s-service-account" .gateway.name) }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "gateway.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .gateway.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
  {{- with .gateway.serviceAnnotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .gateway.type }}
  {{- with .gateway.loadBalancerIP }}
  loadBalancerIP: {{ . | quote }}
  {{- end }}
  {{- with .gateway.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{ toYaml . | nindent 2 }}
  {{- end }}
  {{- with .gateway.externalTrafficPolicy }}
  externalTrafficPolicy: {{ . }}
  {{- end }}
  selector: {{ toYaml .gateway.labels | nindent 4 }}
  ports: {{ toYaml .gateway.ports | nindent 2 }}
{{- end -}}

{{- define "gateway.autoscale" -}}
{{- if .gateway.autoscaleEnabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .gateway.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
spec:
  minReplicas: {{ .gateway.autoscaleMin }}
  maxReplicas: {{ .gateway.autoscaleMax }}
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ .gateway.name }}
  metrics:
  - type: Resource
    resource:
      name: cpu
      target:
        type: Utilization
        averageUtilization: {{ .gateway.cpu.targetAverageUtilization }}
{{- end }}
{{- end -}}

{{- define "gateway.budget" -}}
{{- $replicas := ternary .gateway.autoscaleMin (.gateway.replicaCount | default 1) .gateway.autoscaleEnabled }}
{{- if and .Values.global.defaultPodDisruptionBudget.enabled (gt (int $replicas) 1) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .gateway.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
spec:
  minAvailable: 1
  selector:
    matchLabels: {{ toYaml .gateway.labels | nindent 6 }}
{{- end }}
{{- end -}}
