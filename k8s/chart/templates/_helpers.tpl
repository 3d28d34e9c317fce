{{- /* Made from flows/*.yml by `python -m scripts.kubernetes`: change those, or an overlay. */}}

{{- define "cliptune.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "cliptune.config" -}}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ $value | quote }}
{{- end }}
CLIPTUNE_ARTIFACT: {{ ternary .Values.model.name "/models/artifact" (empty .Values.model.source) | quote }}
CLIPTUNE_INDEX: {{ ternary .Values.milvus.uri "/data/index" .Values.milvus.enabled | quote }}
CLIPTUNE_HOST: "0.0.0.0"
CLIPTUNE_METRICS_PORT: "9090"
CLIPTUNE_API_KEYS_FILE: {{ ternary "/etc/cliptune/keys/keys" "" .Values.keys.required | quote }}
CLIPTUNE_SSL_CERTFILE: {{ ternary "/etc/cliptune/tls/tls.crt" "" .Values.tls.enabled | quote }}
CLIPTUNE_SSL_KEYFILE: {{ ternary "/etc/cliptune/tls/tls.key" "" .Values.tls.enabled | quote }}
HOME: "/tmp"
CLIPTUNE_HOME: "/data"
HF_HOME: "/data/huggingface"
{{- if .Values.model.source }}
MODEL_SOURCE: {{ .Values.model.source | quote }}
MODEL_DIGEST: {{ required "model.digest" .Values.model.digest | quote }}
{{- end }}
{{- if .Values.milvus.enabled }}
CLIPTUNE_PICTURES: /data/pictures
{{- end }}
{{- end }}

{{- define "cliptune.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "cliptune.container" -}}
image: {{ include "cliptune.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
envFrom:
- configMapRef:
    name: cliptune
lifecycle:
  preStop:
    exec:
      command:
      - sleep
      - '5'
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
    - ALL
{{- end }}

{{- define "cliptune.executor" -}}
startupProbe:
  grpc:
    port: 8080
  periodSeconds: 5
  failureThreshold: 60
readinessProbe:
  grpc:
    port: 8080
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  grpc:
    port: 8080
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "cliptune.gateway" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: http
    scheme: {{ ternary "HTTPS" "HTTP" .Values.tls.enabled | quote }}
  periodSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet:
    path: /readyz?need=any
    port: http
    scheme: {{ ternary "HTTPS" "HTTP" .Values.tls.enabled | quote }}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet:
    path: /healthz
    port: http
    scheme: {{ ternary "HTTPS" "HTTP" .Values.tls.enabled | quote }}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "cliptune.annotations" -}}
prometheus.io/scrape: 'true'
prometheus.io/port: '9090'
prometheus.io/path: /metrics
checksum/config: {{ include "cliptune.config" . | sha256sum }}
{{- end }}

{{- define "cliptune.model" -}}
{{- if .Values.model.source }}
initContainers:
- name: model
  image: {{ include "cliptune.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
  command:
  - cliptune
  - fetch
  - $(MODEL_SOURCE)
  - /models/artifact
  - --digest
  - $(MODEL_DIGEST)
  envFrom:
  - configMapRef:
      name: cliptune
  - secretRef:
      name: {{ .Values.model.secret | quote }}
      optional: true
  resources:
    requests:
      cpu: 100m
      memory: 1Gi
    limits:
      memory: 1Gi
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop:
      - ALL
  volumeMounts:
  - name: models
    mountPath: /models
  - name: tmp
    mountPath: /tmp
{{- end }}
{{- end }}
