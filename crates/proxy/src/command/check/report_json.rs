//! `check --json`: the same report for programs.

use gatepay_proxy::memory_bound::MemoryBound;
use gatepay_proxy::metrics::size::ScrapeSize;
use gatepay_tenancy::{ConfigHash, ConfigSnapshot, Configuration, Problem};
use serde_json::{Value, json};

use super::super::problem_json;

/// The report on a configuration that `serve` would take.
pub(super) fn fine(file: &str, configuration: &Configuration, notes: &[String]) -> Value {
    let Configuration {
        settings,
        registry,
        catalogue,
    } = configuration;
    let size = ScrapeSize::bound(catalogue, registry, &settings.metrics);
    let tenants = registry.tenants().len();
    json!({
        "file": file,
        "fine": true,
        "problems": [],
        "notes": notes,
        "listen": settings.listen.address.to_string(),
        "admin": settings.admin.address.to_string(),
        "gatepay": settings.upstream.url.authority(),
        "tenants": tenants,
        "operators": registry.parties().count() - tenants,
        "memory_bytes": MemoryBound::of(settings, registry).all,
        "memory_limit_bytes": MemoryBound::of(settings, registry).limit(),
        "metrics_series": size.series,
        "metrics_bytes": size.bytes,
        "configuration": ConfigHash::of(ConfigSnapshot::of(configuration)).to_string(),
    })
}

/// The report on a configuration with problems.
pub(super) fn faulty(file: &str, problems: &[Problem]) -> Value {
    let problems: Vec<_> = problems.iter().map(problem_json).collect();
    json!({ "file": file, "fine": false, "problems": problems, "notes": [] })
}
