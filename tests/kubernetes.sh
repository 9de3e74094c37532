#!/usr/bin/env bash
# The manifests of config/kubernetes, rendered by kustomize and validated against the schemas of Kubernetes' API.
# Installs kubernetes-validate from PyPI into target/tools once; it works offline after that.
set -euo pipefail
cd "$(dirname "$0")/.."
# The oldest version that still gets mends, and the newest that the validator knows.
versions=(1.31 1.37)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
manifests=config/kubernetes
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tools=$target/tools/kubernetes
if [[ ! -x $tools/bin/kubernetes-validate ]]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
fi
for overlay in one many; do
    kubectl kustomize "$manifests/$overlay" >"$folder/$overlay.yaml"
    for version in "${versions[@]}"; do
        "$tools/bin/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "$folder/$overlay.yaml"
    done
    echo "$overlay: $(grep -c '^kind:' "$folder/$overlay.yaml") objects, valid for Kubernetes ${versions[*]}"
done
# The operator's own kinds are in no schema of Kubernetes: here they are only read, and the rules compared with their source.
"$tools/bin/python" - "$manifests/monitoring/podmonitor.yaml" config/prometheus/rules.yml <(sh "$manifests/monitoring/prometheus-rule.sh") <<'END'
import sys
import yaml
monitor, source, rule = [yaml.safe_load(open(name)) for name in sys.argv[1:]]
assert monitor["kind"] == "PodMonitor" and rule["kind"] == "PrometheusRule", (monitor, rule)
assert rule["spec"] == source, "the rules for the operator are others"
print(f"monitoring: {len(source['groups'])} groups of rules")
END

# The validator itself is tried: a misspelt key and a wrong type have to be found.
sed 's/terminationGracePeriodSeconds:/terminationGracePeriod:/' "$folder/one.yaml" >"$folder/wrong.yaml"
sed 's/replicas: 1/replicas: one/' "$folder/one.yaml" >"$folder/untyped.yaml"
for wrong in wrong untyped; do
    ! "$tools/bin/kubernetes-validate" --strict --quiet --kubernetes-version "${versions[0]}" "$folder/$wrong.yaml" >/dev/null 2>&1 ||
        { echo "the validator finds nothing"; exit 1; }
done
