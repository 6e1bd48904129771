{{- define "gateway.deployment" -}}
{{- $istiod := printf "istiod%s" (.Values.revision | empty | ternary "" (printf "-%s" .Values.revision)) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .gateway.name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
spec:
  {{- if not .gateway.autoscaleEnabled }}
  replicas: {{ .gateway.replicaCount | default 1 }}
  {{- end }}
  strategy:
    rollingUpdate:
      maxSurge: {{ .gateway.rollingMaxSurge }}
      maxUnavailable: {{ .gateway.rollingMaxUnavailable }}
  selector:
    matchLabels: {{ toYaml .gateway.labels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "gateway.labels" . | nindent 8 }}
        service.istio.io/canonical-name: {{ .gateway.name }}
        service.istio.io/canonical-revision: latest
        sidecar.istio.io/inject: "false"
      annotations:
        prometheus.io/port: {{ .Values.global.proxy.statusPort | quote }}
        prometheus.io/scrape: "true"
        prometheus.io/path: /stats/prometheus
        sidecar.istio.io/inject: "false"
        istio.io/rev: {{ .Values.revision | default "default" | quote }}
        {{- with .gateway.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ .gateway.serviceAccount | default (printf "%s-service-account" .gateway.name) }}
      {{- with .Values.global.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .gateway.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .gateway.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .gateway.affinity }}
      affinity: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.global.imagePullSecrets }}
      imagePullSecrets: {{ range . }}
      - name: {{ . }}{{ end }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 1337
        runAsGroup: 1337
        fsGroup: 1337
      containers:
      - name: istio-proxy
        image: {{ include "gateway.image" . }}
        {{- with .Values.global.imagePullPolicy }}
        imagePullPolicy: {{ . }}
        {{- end }}
        args:
        - proxy
        - router
        - --domain
        - $(POD_NAMESPACE).svc.{{ .Values.global.proxy.clusterDomain }}
        - --proxyLogLevel={{ .Values.global.proxy.logLevel }}
        - --proxyComponentLogLevel={{ .Values.global.proxy.componentLogLevel }}
        - --log_output_level={{ .Values.global.logging.level }}
        ports:
        {{- range .gateway.ports }}
        - containerPort: {{ .targetPort | default .port }}
          protocol: {{ .protocol | default "TCP" }}
        {{- end }}
        - {containerPort: 15090, name: http-envoy-prom, protocol: TCP}
        readinessProbe:
          httpGet:
            path: /healthz/ready
            port: 15021
            scheme: HTTP
          initialDelaySeconds: 0
          periodSeconds: 2
          failureThreshold: 30
          timeoutSeconds: 3
        {{- with .gateway.resources }}
        resources: {{ toYaml . | nindent 10 }}
        {{- end }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL]}
        env:
        - name: PILOT_CERT_PROVIDER
          value: istiod
        - name: CA_ADDR
          value: {{ $istiod }}.{{ .Values.global.istioNamespace }}.svc:15012
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: INSTANCE_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        - name: HOST_IP
          valueFrom: {fieldRef: {fieldPath: status.hostIP}}
        - name: SERVICE_ACCOUNT
          valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}
        - name: ISTIO_META_WORKLOAD_NAME
          value: {{ .gateway.name }}
        - name: ISTIO_META_OWNER
          value: kubernetes://apis/apps/v1/namespaces/{{ .Release.Namespace }}/deployments/{{ .gateway.name }}
        - name: ISTIO_META_MESH_ID
          value: {{ .Values.global.meshID | default "cluster.local" | quote }}
        - name: TRUST_DOMAIN
          value: {{ (.Values.meshConfig | default dict).trustDomain | default "cluster.local" | quote }}
        - name: ISTIO_META_UNPRIVILEGED_POD
          value: "true"
        - name: ISTIO_META_CLUSTER_ID
          value: {{ .Values.global.multiCluster.clusterName | default "Kubernetes" | quote }}
        - name: ISTIO_META_NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        - name: PROXY_CONFIG
          value: {{ dict "discoveryAddress" (printf "%s.%s.svc:15012" $istiod .Values.global.istioNamespace) | toJson | quote }}
        {{- range $name, $value := .gateway.env }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
        volumeMounts:
        - {name: workload-socket, mountPath: /var/run/secrets/workload-spiffe-uds}
        - {name: credential-socket, mountPath: /var/run/secrets/credential-uds}
        - {name: workload-certs, mountPath: /var/run/secrets/workload-spiffe-credentials}
        - {name: istio-envoy, mountPath: /etc/istio/proxy}
        - {name: istio-data, mountPath: /var/lib/istio/data}
        - {name: podinfo, mountPath: /etc/istio/pod}
        - {name: istio-token, mountPath: /var/run/secrets/tokens, readOnly: true}
        - {name: istiod-ca-cert, mountPath: /var/run/secrets/istio}
        {{- range concat .gateway.secretVolumes (.gateway.configVolumes | default list) }}
        - {name: {{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
        {{- end }}
      volumes:
      - {name: workload-socket, emptyDir: {}}
      - {name: credential-socket, emptyDir: {}}
      - {name: workload-certs, emptyDir: {}}
      - {name: istio-envoy, emptyDir: {}}
      - {name: istio-data, emptyDir: {}}
      - name: istiod-ca-cert
        configMap:
          name: istio-ca-root-cert
      - name: podinfo
        downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
      - name: istio-token
        projected:
          sources:
          - serviceAccountToken: {path: istio-token, expirationSeconds: 43200, audience: istio-ca}
      {{- range .gateway.secretVolumes }}
      - name: {{ .name }}
        secret:
          secretName: {{ .secretName }}
          optional: true
      {{- end }}
      {{- range .gateway.configVolumes }}
      - name: {{ .name }}
        configMap:
          name: {{ .configMapName | default .name }}
          optional: true
      {{- end }}
{{- end -}}
