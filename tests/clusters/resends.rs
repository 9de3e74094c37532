//! The law of copies: of an executed call that is sent again at another instance no refusal says that it was not executed.

use std::collections::BTreeSet;
use std::fs;

use gatepay_proxy::refusal::Refusal;
use gatepay_sandbox::InjectedFault;

use super::*;

/// What a copy of an executed call meets at another instance, by the slug of its refusal.
#[derive(Clone, Copy)]
enum Copies {
    /// Only a request that is not proved to be its caller's meets it. Its outcome is unknown too.
    Unproved,
    /// Only the one request that the store admitted meets it.
    OnlyTheAdmitted,
    /// A verified copy meets it; the test below provokes it.
    Verified,
}

/// Every refusal has its line here: a new one does not compile into a test that passes.
const COPIES: [(&str, Copies); Refusal::SLUGS.len()] = [
    ("malformed_request", Copies::Unproved),
    ("invalid_body", Copies::Verified),
    ("unsupported_media_type", Copies::Unproved),
    ("signature_mismatch", Copies::Unproved),
    ("stale_timestamp", Copies::Verified),
    ("unknown_client", Copies::Verified),
    ("malformed_nonce", Copies::Unproved),
    ("replayed", Copies::Verified),
    ("on_behalf_of_mismatch", Copies::Verified),
    ("tenant_suspended", Copies::Verified),
    ("operation_not_allowed", Copies::Verified),
    ("rate_limited", Copies::Verified),
    ("too_many_in_flight", Copies::Verified),
    ("institution_quota", Copies::Verified),
    ("overloaded", Copies::Unproved),
    ("upstream_unreachable", Copies::OnlyTheAdmitted),
    ("upstream_unavailable", Copies::OnlyTheAdmitted),
    ("outcome_unknown", Copies::OnlyTheAdmitted),
    ("request_timeout", Copies::Unproved),
    ("body_too_large", Copies::Unproved),
    ("internal", Copies::OnlyTheAdmitted),
    ("address_not_allowed", Copies::Verified),
    ("unknown_operation", Copies::Unproved),
    ("head_too_large", Copies::Unproved),
    ("institution_rejected", Copies::OnlyTheAdmitted),
    ("starting", Copies::Verified),
    ("journal_unavailable", Copies::Verified),
    ("store_unavailable", Copies::Verified),
    // Only a call that was not executed meets it; an executed one is `replayed` under a halt.
    ("halted", Copies::OnlyTheAdmitted),
    // As above: the stamp is looked up before the caps.
    ("cap_exceeded", Copies::OnlyTheAdmitted),
    ("destination_not_allowed", Copies::OnlyTheAdmitted),
    ("approval_required", Copies::OnlyTheAdmitted),
];

#[test]
fn every_refusal_has_a_verdict_about_copies() {
    let listed: BTreeSet<_> = COPIES.iter().map(|(slug, _)| *slug).collect();
    assert_eq!(listed, Refusal::SLUGS.into());
}

/// An instance before which copies of an executed call are refused for one reason.
struct Case {
    slug: &'static str,
    /// Lines of the tenant's file, and of `proxy.toml`.
    tenant: &'static str,
    proxy: &'static str,
}

const CASES: [Case; 11] = [
    Case {
        slug: "invalid_body",
        tenant: "",
        proxy: "checks = 'strict'",
    },
    Case {
        slug: "stale_timestamp",
        tenant: "timestamp = { past_ms = 1 }",
        proxy: "",
    },
    Case {
        slug: "unknown_client",
        tenant: "",
        proxy: "",
    },
    Case {
        slug: "replayed",
        tenant: "",
        proxy: "",
    },
    Case {
        slug: "on_behalf_of_mismatch",
        tenant: "",
        proxy: "",
    },
    Case {
        slug: "tenant_suspended",
        tenant: "standing = 'suspended'",
        proxy: "",
    },
    Case {
        slug: "operation_not_allowed",
        tenant: "operations = { deny = ['money'] }",
        proxy: "",
    },
    Case {
        slug: "rate_limited",
        tenant: "limits = { requests_per_second = 1, burst = 1 }",
        proxy: "",
    },
    Case {
        slug: "too_many_in_flight",
        tenant: "limits = { in_flight = 1 }",
        proxy: "",
    },
    Case {
        slug: "institution_quota",
        tenant: "",
        proxy: "",
    },
    Case {
        slug: "address_not_allowed",
        tenant: "addresses = ['192.0.2.0/24']",
        proxy: "",
    },
];

/// Configures the instance of a case.
fn configure(case: &Case, folder: &Folder) {
    if !case.proxy.is_empty() {
        folder.proxy(case.proxy);
    }
    if !case.tenant.is_empty() {
        folder.tenant(&acme(), case.tenant);
    }
    match case.slug {
        "unknown_client" => folder.edit(
            "tenants.d/acme.toml",
            "credential = [{ ",
            "credential = [{ not_after = 2020-01-01T00:00:00Z, ",
        ),
        "institution_quota" => folder.edit(
            "proxy.toml",
            "upstream = { ",
            "upstream = { quota = { requests_per_second = 1, burst = 9, reserve = 0 }, ",
        ),
        _ => {}
    }
}

/// Sends a copy as the case demands, after what makes the instance refuse it; again if the reason was over before the copy
/// came.
async fn provoke(
    case: &Case,
    program: &Program,
    gatepay: &GatePay,
    executed: &Request<Full<Bytes>>,
) -> Answer {
    let began = Instant::now();
    loop {
        let copy = provoke_once(case, program, gatepay, executed).await;
        if copy.refusal() != Some("replayed") || began.elapsed() > PATIENCE {
            return copy;
        }
        assert_eq!(copy.outcome(), Some("unknown"), "{}", copy.text());
        if case.slug == "replayed" {
            return copy;
        }
    }
}

async fn provoke_once(
    case: &Case,
    program: &Program,
    gatepay: &GatePay,
    executed: &Request<Full<Bytes>>,
) -> Answer {
    let query = || signed(&acme().post(QUERY, BY_NUMBER));
    match case.slug {
        "rate_limited" => drop(send(program, &query()).await),
        "institution_quota" => while send(program, &query()).await.refusal().is_none() {},
        "too_many_in_flight" => {
            let delay = InjectedFault::Delay(Duration::from_secs(2));
            gatepay.sandbox.clear_faults();
            gatepay.inject(delay.once());
            let (address, before) = (program.address, gatepay.count());
            let asked = tokio::spawn(async move { send_to_instance(address, &query()).await });
            until("the query is in flight, or refused", || {
                gatepay.count() > before || asked.is_finished()
            })
            .await;
        }
        "on_behalf_of_mismatch" => {
            let mut changed = executed.clone();
            let other = globex().sub_account.parse().unwrap();
            changed
                .headers_mut()
                .insert("x-gatepay-on-behalf-of", other);
            return send(program, &changed).await;
        }
        _ => {}
    }
    send(program, executed).await
}

/// The answer refuses the copy for this reason, and leaves its outcome open.
fn is_in_doubt(wanted: &str, copy: &Answer) {
    assert_eq!(copy.refusal(), Some(wanted), "{}", copy.text());
    assert_eq!(copy.outcome(), Some("unknown"), "{wanted}: {}", copy.text());
    let message = copy.message();
    let again = "send the same bytes again";
    if copy.status == 429 {
        assert!(message.contains(again), "{message}");
    } else {
        assert!(
            message.contains("ask GET") || message.contains("look up"),
            "{message}"
        );
        assert!(!message.contains(again), "{message}");
    }
}

#[tokio::test]
async fn no_refusal_at_another_instance_says_that_an_executed_call_was_not_executed() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, server) = (GatePay::now(), PgServer::migrated().await);
    let [first] = instances([folder(&gatepay, &server, "")]).await;
    // GatePay answers it with a failure of its own: what counts is that it arrives once.
    // Longer than GatePay's page says: only a strict instance refuses it.
    let body = A_REFUND.replace("R-0001", &"R".repeat(33));
    let executed = signed(&acme().post(REFUND, body.clone()));
    assert_eq!(send(&first, &executed).await.refusal(), None);
    let refunds = || {
        let received = gatepay.received();
        received.iter().filter(|it| it.body == body).count()
    };
    assert_eq!(refunds(), 1);
    let mut seen = BTreeSet::new();
    for case in &CASES {
        let folder = folder(&gatepay, &server, "");
        configure(case, &folder);
        let program = Program::serve(&folder).await;
        program.until_ready().await;
        let copy = provoke(case, &program, &gatepay, &executed).await;
        is_in_doubt(case.slug, &copy);
        seen.insert(case.slug);
        // Its smaller limits hold for all instances until it leaves.
        program.terminate();
        program.end().await;
        if case.slug == "rate_limited" {
            // The bucket is empty, and fills by the larger rate once that is asked for.
            admits(&first).await;
        }
    }
    seen.extend(by_the_store_and_the_journal(&gatepay, server, &executed).await);
    assert_eq!(refunds(), 1, "no copy was forwarded");
    let verified = COPIES
        .iter()
        .filter(|(_, copies)| matches!(copies, Copies::Verified));
    assert_eq!(seen, verified.map(|(slug, _)| *slug).collect());
}

/// Refusals that do not come from an instance's configuration.
async fn by_the_store_and_the_journal(
    gatepay: &GatePay,
    mut server: PgServer,
    executed: &Request<Full<Bytes>>,
) -> [&'static str; 3] {
    let folder = folder(gatepay, &server, "");
    folder.keeps_a_journal();
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    // Halts, and a suspension for all instances: the stamp is looked up first.
    for scope in ["all", "money", "suspended:acme"] {
        server.sql(&format!("SELECT gatepay.halt_v1('{scope}', 'alice')"));
        is_in_doubt("replayed", &send(&program, executed).await);
        server.sql(&format!(
            "SELECT gatepay.resume_v1(scope, epoch) FROM gatepay.halt WHERE scope = '{scope}'"
        ));
    }
    fs::rename(folder.path("audit"), folder.path("aside")).unwrap();
    let _refused = until_refused("journal_unavailable", &program, refund).await;
    is_in_doubt("journal_unavailable", &send(&program, executed).await);
    fs::rename(folder.path("aside"), folder.path("audit")).unwrap();
    // A guard, as after a failover.
    server.sql("SELECT gatepay.distrust_v1(60000, false)");
    server.sql("TRUNCATE gatepay.stamp");
    // Limits begin again with the guard: no seats are lent for five seconds, and buckets are empty.
    let copy = || executed.clone();
    let guarded = until_refused("starting", &program, copy).await;
    is_in_doubt("starting", &guarded);
    server.kill();
    let away = until_refused("store_unavailable", &program, copy).await;
    is_in_doubt("store_unavailable", &away);
    ["journal_unavailable", "starting", "store_unavailable"]
}

/// Sends calls until one is refused for this reason.
async fn until_refused(
    slug: &str,
    program: &Program,
    call: impl Fn() -> Request<Full<Bytes>>,
) -> Answer {
    let began = Instant::now();
    loop {
        let answer = send_once(program, &call()).await;
        if answer.refusal() == Some(slug) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{slug}: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
