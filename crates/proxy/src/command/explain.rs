//! `explain`: why a request was refused, from the request alone.

mod check;
mod input;

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use gatepay_core::explain::{self, ClaimedRequest, ExplainFinding, RequestLine};
use gatepay_core::{SecretKey, StampWindow};
use gatepay_proxy::headers;
use gatepay_proxy::process::clock::Clock;
use serde_json::json;

use super::from::{self, BodyFrom, SecretFrom};
use super::{ExitStatus, complain, say, say_json};
use check::{ExplainCheck, WrongInput};
use input::ExplainInput;

/// Find out offline why a signed request was refused.
/// Makes the proxy's checks in the proxy's order. If the signature does not match, it tries common mistakes until one
/// gives your signature, and names it: another hash, a missing line feed, a body serialized again, an altered secret,
/// and so on. The secret and the right signature are not printed.
/// Give the request as it was sent, or its parts. Exits with 0 if all checks pass, 1 if one fails, 64 if the input cannot
/// be used.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ExplainCommand {
    #[command(flatten)]
    secret: SecretFrom,
    /// A file that holds the whole request: first line, headers, an empty line, body; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["timestamp", "nonce", "signature", "method", "BodyFrom"])]
    request: Option<PathBuf>,
    /// The value of X-GatePay-Timestamp.
    #[arg(long, value_name = "MS", required_unless_present = "request")]
    timestamp: Option<String>,
    /// The value of X-GatePay-Nonce.
    #[arg(long, value_name = "TEXT", required_unless_present = "request")]
    nonce: Option<String>,
    /// The value of X-GatePay-Signature.
    #[arg(long, value_name = "DIGITS", required_unless_present = "request")]
    signature: Option<String>,
    #[command(flatten)]
    body: BodyFrom,
    /// The method. Method and path are not signed; with them, the command finds out whether you signed them.
    #[arg(value_name = "METHOD", requires = "path")]
    method: Option<String>,
    /// The path, with its query.
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// When the request arrived, in milliseconds since 1970 [default: now]
    #[arg(long, value_name = "MS")]
    now: Option<u64>,
    /// The maximum age of a timestamp, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 300_000)]
    past_ms: u64,
    /// The maximum time by which a timestamp may be ahead of the clock, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    future_ms: u64,
    /// The SHA-256 in the refusal's message: it shows whether the bytes changed on the way.
    #[arg(long, value_name = "DIGITS", value_parser = digest)]
    received_digest: Option<[u8; 32]>,
    /// Print the checks and the advice as one JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Examples:
  gatepay-proxy explain --secret-file acme.secret --request refused.http
  gatepay-proxy explain --secret-file acme.secret --timestamp 1767225600000 --nonce k64 \\
    --signature 0ff73e... --data-file order.json --received-digest 5bd13c...";

fn digest(text: &str) -> Result<[u8; 32], String> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest)
        .map_err(|_| "must be 64 hexadecimal digits".to_owned())?;
    Ok(digest)
}

impl ExplainCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let usable = self
            .secret
            .key()
            .and_then(|secret| Ok((secret, self.input()?)));
        let (secret, input) = match usable {
            Ok(usable) => usable,
            Err(error) => {
                complain(error);
                return ExitStatus::Usage;
            }
        };
        let window = StampWindow {
            past_ms: self.past_ms,
            future_ms: self.future_ms,
        };
        let now = self.now.unwrap_or_else(|| Clock::system().unix_ms());
        let checks = check::all(&input, &secret, window, now, self.received_digest.as_ref());
        let refusal = checks.iter().find_map(|check| check.outcome.as_ref().err());
        let advice = self.advice(&secret, &input, &checks);
        if self.json {
            let check = |ExplainCheck { name, outcome }: &ExplainCheck| match outcome {
                Ok(seen) => json!({ "name": name, "ok": true, "text": seen }),
                Err(wrong) => json!({ "name": name, "ok": false, "text": wrong.to_string() }),
            };
            say_json(&json!({
                "ok": refusal.is_none(),
                "refusal": refusal.and_then(WrongInput::slug),
                "checks": checks.iter().map(check).collect::<Vec<_>>(),
                "advice": advice,
            }));
        } else {
            for ExplainCheck { name, outcome } in &checks {
                match outcome {
                    Ok(seen) => say(format_args!("{name:<15} ok     {seen}")),
                    Err(wrong) => say(format_args!("{name:<15} wrong  {wrong}")),
                }
            }
            say("");
            advice.iter().for_each(say);
        }
        match refusal {
            None => ExitStatus::Fine,
            Some(_) => ExitStatus::Failed,
        }
    }

    fn input(&self) -> Result<ExplainInput, String> {
        if let Some(path) = &self.request {
            let raw = from::read(path)?;
            return input::parse(&raw).map_err(|error| format!("{}: {error}", path.display()));
        }
        let given = |value: &Option<String>| value.clone().unwrap_or_default();
        let values = [
            (headers::TIMESTAMP, given(&self.timestamp)),
            (headers::NONCE, given(&self.nonce)),
            (headers::SIGNATURE, given(&self.signature)),
        ];
        let line = self.method.clone().zip(self.path.clone());
        input::of_parts(values, line, self.body.read()?)
    }

    /// The conclusion in words: the refusal, and how to put the request right.
    fn advice(
        &self,
        secret: &SecretKey,
        input: &ExplainInput,
        checks: &[ExplainCheck],
    ) -> Vec<String> {
        let first = checks.iter().find_map(|check| check.outcome.as_ref().err());
        let Some(first) = first else {
            return vec!["all checks pass: this request is signed correctly".to_owned()];
        };
        let mut advice = Vec::new();
        let mut say = |line: fmt::Arguments<'_>| advice.push(line.to_string());
        if let Some(slug) = first.slug() {
            say(format_args!(
                "the proxy refuses this request with {slug}, its first failed check"
            ));
        }
        let timestamp = input.header(&headers::TIMESTAMP);
        if let Some(unit) = timestamp.and_then(|timestamp| explain::unit(&timestamp)) {
            say(format_args!(
                "the timestamp seems to be in {unit}; it must be in milliseconds, which have 13 digits"
            ));
        } else if check::is_wrong(checks, check::FRESHNESS) && self.now.is_none() {
            say(format_args!(
                "a request must be sent right after it is signed; to check an old one, give its time of arrival with --now"
            ));
        }
        if check::is_right(checks, check::SIGNATURE) && check::is_wrong(checks, check::ARRIVED) {
            say(format_args!(
                "the signature is right for these bytes, but the proxy received others: your HTTP library, or a proxy on the way, changed them"
            ));
        }
        if check::is_wrong(checks, check::FORM) || check::is_wrong(checks, check::SIGNATURE) {
            advice.extend(signature_advice(secret, input, checks));
        }
        advice
    }
}

/// The mistakes that lead to the given signature, each with its correction.
fn signature_advice(
    secret: &SecretKey,
    input: &ExplainInput,
    checks: &[ExplainCheck],
) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |line: fmt::Arguments<'_>| advice.push(line.to_string());
    let text = |name| input.header(name).unwrap_or_default();
    let (timestamp, nonce, signature) = (
        text(&headers::TIMESTAMP),
        text(&headers::NONCE),
        text(&headers::SIGNATURE),
    );
    let line = input
        .line
        .as_ref()
        .map(|(method, target)| RequestLine { method, target });
    let request = ClaimedRequest {
        timestamp: &timestamp,
        nonce: &nonce,
        signature: &signature,
        body: &input.body,
        line,
    };
    let findings = explain::hypotheses(secret, &request);
    if findings.is_empty() {
        say(format_args!(
            "no common mistake gives this signature: it was made with another secret, or over another body, timestamp or nonce"
        ));
        if check::is_right(checks, check::ARRIVED) {
            say(format_args!(
                "the proxy received exactly these bytes: check the secret first"
            ));
        } else if check::is_wrong(checks, check::SIGNATURE) {
            say(format_args!(
                "compare the SHA-256 above with that of the string you sign: if they are equal, check the secret"
            ));
        }
        return advice;
    }
    for (at, ExplainFinding { causes }) in findings.iter().take(MOST_SHOWN).enumerate() {
        let begins = if at == 0 {
            "this mistake gives your signature:"
        } else {
            "or this one, which gives the same signature here:"
        };
        say(format_args!("{begins}"));
        for cause in causes {
            say(format_args!("  {cause}"));
            say(format_args!("    instead: {}", cause.part.advice()));
        }
    }
    advice
}

/// The number of explanations that are printed at most: more would not help.
const MOST_SHOWN: usize = 3;
