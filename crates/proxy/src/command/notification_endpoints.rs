//! `notifications endpoints`, `test` and `enable`: the tenants' endpoints.

use clap::Args;
use gatepay_tenancy::PartyId;
use http::Method;
use serde_json::Value;

use super::ExitStatus;
use super::admin_client::AdminArguments;

/// List the tenants' endpoints that notifications have gone to, with those that are off or whose breaker is open.
#[derive(Args)]
pub(crate) struct NotificationsEndpoints {
    /// Only endpoints of this tenant.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: Option<PartyId>,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// Send a signed test event to a tenant's endpoints, and print the event, the answer, and advice.
/// The test event has a bizType of its own. It is not stored, not counted and not repeated, and it is sent even if the
/// endpoint is off or its breaker is open. Ends with 1 if an endpoint did not acknowledge it.
#[derive(Args)]
pub(crate) struct NotificationsTest {
    /// The tenant.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: PartyId,
    /// Only this URL of a call of the tenant's, without its query [default: all of its endpoints]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// Turn a tenant's endpoints on again: those that answered 410, and those whose breaker is open.
/// Their waiting notifications are sent at once. The audit journal records it.
#[derive(Args)]
pub(crate) struct NotificationsEnable {
    /// The tenant.
    #[arg(long, value_name = "ID", value_parser = PartyId::parse)]
    tenant: PartyId,
    /// Only this URL of a call of the tenant's, without its query [default: all of its endpoints]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    arguments: AdminArguments,
}

impl NotificationsEndpoints {
    pub(crate) fn run(self) -> ExitStatus {
        let parameters = [("tenant", self.tenant.as_ref().map(PartyId::as_str))];
        let lines = |page: &Value| {
            let mut lines = vec![HEAD.to_owned()];
            let endpoints = page["endpoints"].as_array().into_iter().flatten();
            lines.extend(endpoints.map(line));
            lines
        };
        let path = "/notifications/endpoints";
        self.arguments.run(&Method::GET, path, &parameters, lines)
    }
}

const HEAD: &str =
    "tenant                   state         breaker   failures  waiting     dead  url";

fn line(endpoint: &Value) -> String {
    let word = |name: &str| endpoint[name].as_str();
    let breaker = &endpoint["breaker"];
    let state = match word("off") {
        None => "on".to_owned(),
        Some(reason) => format!("off: {reason}"),
    };
    format!(
        "{:<24} {state:<13} {:<9} {:>8} {:>8} {:>8}  {}",
        word("tenant").unwrap_or("-"),
        breaker["state"].as_str().unwrap_or("-"),
        number(&breaker["failures"]),
        number(&endpoint["waiting"]),
        number(&endpoint["dead"]),
        word("url").unwrap_or("(of the tenant's file)"),
    )
}

fn number(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| "-".to_owned(), |it| it.to_string())
}

impl NotificationsTest {
    pub(crate) fn run(self) -> ExitStatus {
        let parameters = [
            ("tenant", Some(self.tenant.as_str())),
            ("url", self.url.as_deref()),
        ];
        let endpoints = |reply: &Value| reply["endpoints"].as_array().cloned().unwrap_or_default();
        let lines = |reply: &Value| endpoints(reply).iter().flat_map(tested).collect();
        let all_acknowledge = |reply: &Value| {
            let mut endpoints = endpoints(reply).into_iter();
            endpoints.all(|endpoint| endpoint["acknowledged"] == true)
        };
        let path = "/-/notifications/test";
        self.arguments
            .run_judged(&Method::POST, path, &parameters, (lines, all_acknowledge))
    }
}

/// The lines about one endpoint.
fn tested(endpoint: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (sent, answer) = (&endpoint["sent"], &endpoint["answer"]);
    let mut lines = vec![text(&endpoint["url"])];
    if sent.is_object() {
        lines.push(format!(
            "  sent       event {}, signed with client id {}: {}",
            text(&sent["event"]),
            text(&sent["client_id"]),
            text(&sent["body"]),
        ));
        let said = match (answer["status"].as_u64(), answer["error"].as_str()) {
            (Some(status), _) => format!("status {status}: {}", text(&answer["body"])),
            (None, error) => error.unwrap_or("no answer").to_owned(),
        };
        let (outcome, took) = (text(&answer["outcome"]), number(&answer["took_ms"]));
        lines.push(format!("  answered   {outcome} after {took} ms: {said}"));
    } else {
        lines.push("  sent       nothing".to_owned());
    }
    lines.push(format!("  addresses  {}", text(&endpoint["addresses"])));
    let off = endpoint["off"].as_str();
    let off = off.map_or_else(String::new, |reason| {
        format!("; the endpoint is off: {reason}")
    });
    lines.push(format!(
        "  breaker    {}{off}",
        breaker(&endpoint["breaker"])
    ));
    let advice = endpoint["advice"].as_array().into_iter().flatten();
    lines.extend(advice.map(|advice| format!("  to do      {}", text(advice))));
    lines
}

fn breaker(breaker: &Value) -> String {
    let failures = number(&breaker["failures"]);
    let until = breaker["until"].as_str().unwrap_or("-");
    match breaker["state"].as_str() {
        Some("open") => format!(
            "open: notifications wait until {until}, after {failures} failures in a row; the test went past it"
        ),
        Some("probing") => format!(
            "open: after {failures} failures in a row, the next notification is a probe; the test went past it"
        ),
        Some(_) if failures == "0" => "closed".to_owned(),
        Some(_) => format!("closed, after {failures} failures in a row"),
        None => "closed: no notification has gone to this endpoint yet".to_owned(),
    }
}

impl NotificationsEnable {
    pub(crate) fn run(self) -> ExitStatus {
        let parameters = [
            ("tenant", Some(self.tenant.as_str())),
            ("url", self.url.as_deref()),
        ];
        let lines = |reply: &Value| {
            let enabled = reply["enabled"].as_array().into_iter().flatten();
            let mut lines: Vec<String> = enabled
                .map(|url| {
                    format!(
                        "on: {}",
                        url.as_str().unwrap_or("the URL of the tenant's file")
                    )
                })
                .collect();
            lines.push(format!(
                "{} notifications are due now",
                number(&reply["waiting"])
            ));
            lines
        };
        let path = "/-/notifications/enable";
        self.arguments.run(&Method::POST, path, &parameters, lines)
    }
}
