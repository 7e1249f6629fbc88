{{- define "batchyard.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "batchyard.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "batchyard.labels" -}}
{{ include "batchyard.selector" . }}
app.kubernetes.io/part-of: batchyard
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "batchyard.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
batchyard-{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "batchyard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "batchyard.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* How a process reaches NATS, as the user `user`. */}}
{{- define "batchyard.nats" -}}
- name: BATCHYARD_NATS_URL
  value: {{ .root.Values.nats.url | quote }}
- name: BATCHYARD_NATS_REPLICAS
  value: {{ .root.Values.nats.replicas | quote }}
{{- with .root.Values.nats.maxEventsBytes }}
- name: BATCHYARD_EVENTS_MAX_BYTES
  value: {{ include "batchyard.value" . }}
{{- end }}
{{- with .root.Values.nats.auth.existingSecret }}
- name: BATCHYARD_NATS_USER
  value: {{ $.user }}
- name: BATCHYARD_NATS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.user }}
{{- end }}
{{- end -}}

{{/* A variable's value. Helm knows all numbers as floating ones, and would write 1000000 as 1e+06. */}}
{{- define "batchyard.value" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . | quote }}{{ else }}{{ . | quote }}{{ end -}}
{{- end -}}
