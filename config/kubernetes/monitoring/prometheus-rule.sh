#!/bin/sh
# config/prometheus/rules.yml for the Prometheus Operator: config/kubernetes/monitoring/prometheus-rule.sh | kubectl apply -f -
cat <<'END'
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gatepay-proxy
  namespace: payments
spec:
END
sed -n '/^groups:/,$p' "$(dirname "$0")/../../prometheus/rules.yml" | sed 's/^\(.\)/  \1/'
