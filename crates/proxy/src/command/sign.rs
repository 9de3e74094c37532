//! `sign`: a signature and the string it covers.

use clap::Args;
use gatepay_core::{ClientId, SigningKey, Stamp, explain, header, payload, sign};
use gatepay_proxy::process::clock::Clock;
use serde_json::{Map, Value, json};

use super::from::{BodyFrom, SecretFrom};
use super::{ExitStatus, complain, say, say_json};

/// Sign a request offline, and print the signed string's parts.
///
/// The signed string is `timestamp LF nonce LF body LF`; method, path, query and other headers are not part of it.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct SignCommand {
    #[command(flatten)]
    secret: SecretFrom,
    /// The client id that goes with the secret; without it, its header line is left out.
    #[arg(long, value_name = "ID", value_parser = ClientId::parse)]
    client_id: Option<ClientId>,
    /// The timestamp, in milliseconds since 1970 [default: now]
    #[arg(long, value_name = "MS")]
    timestamp: Option<String>,
    /// The nonce, which must be unique [default: 32 random letters and digits]
    #[arg(long, value_name = "TEXT")]
    nonce: Option<String>,
    #[command(flatten)]
    body: BodyFrom,
    /// Print only the header lines, for `curl -H @-`.
    #[arg(long, conflicts_with = "json")]
    headers: bool,
    /// Print one JSON object; `headers` in it are those to send.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example, with the header lines on their way to curl:
  gatepay-proxy sign --client-id acme --secret-file acme.secret --data-file order.json --headers |
    curl -H @- -H 'Content-Type: application/json' --data-binary @order.json \\
      http://127.0.0.1:8080/v1/pay/order";

impl SignCommand {
    pub(crate) fn run(self) -> ExitStatus {
        match self.print() {
            Ok(()) => ExitStatus::Fine,
            Err(error) => {
                complain(error);
                ExitStatus::Usage
            }
        }
    }

    fn print(&self) -> Result<(), String> {
        let key = SigningKey::new(&self.secret.key()?);
        let body = self.body.read()?;
        let fresh = Clock::system().stamp();
        let timestamp = self
            .timestamp
            .as_deref()
            .unwrap_or(fresh.as_stamp().timestamp());
        let nonce = self.nonce.as_deref().unwrap_or(fresh.as_stamp().nonce());
        let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes())
            .map_err(|error| error.to_string())?;
        let signature = sign(&key, &stamp, &body).to_string();

        let client_id = self.client_id.as_ref().map(ClientId::as_str);
        let headers = [
            (header::CLIENT_ID, client_id),
            (header::TIMESTAMP, Some(timestamp)),
            (header::NONCE, Some(nonce)),
            (header::SIGNATURE, Some(&*signature)),
        ];
        let headers = headers
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        if self.json {
            let headers = headers.map(|(name, value)| (name.to_owned(), value.into()));
            say_json(&json!({
                "body_bytes": body.len(),
                "signed_bytes": signed_bytes(&stamp, &body),
                "signed_sha256": hex::encode(payload::digest(&stamp, &body)),
                "signature": signature,
                "headers": headers.collect::<Map<String, Value>>(),
            }));
        } else {
            if !self.headers {
                show(&stamp, &body, &signature);
            }
            for (name, value) in headers {
                say(format_args!("{name}: {value}"));
            }
        }
        if let Some(unit) = explain::unit(timestamp) {
            complain(format_args!(
                "note: the timestamp seems to be in {unit}; milliseconds have 13 digits"
            ));
        }
        Ok(())
    }
}

/// The length of `timestamp LF nonce LF body LF`.
fn signed_bytes(stamp: &Stamp<'_>, body: &[u8]) -> usize {
    stamp.timestamp().len() + stamp.nonce().len() + body.len() + 3
}

fn show(stamp: &Stamp<'_>, body: &[u8], signature: &str) {
    let length = signed_bytes(stamp, body);
    say(format_args!("timestamp      {}", stamp.timestamp()));
    say(format_args!("nonce          {}", stamp.nonce()));
    say(format_args!("body           {} bytes", body.len()));
    say(format_args!(
        "signed string  timestamp LF nonce LF body LF, {length} bytes; LF is the one byte 0x0A"
    ));
    say(format_args!(
        "  its SHA-256  {}",
        hex::encode(payload::digest(stamp, body))
    ));
    say(
        "signature      HMAC-SHA512 of it, keyed with the secret as text, in 128 hexadecimal digits",
    );
    say(format_args!("               {signature}"));
    say("");
    say("Method, path, query and other headers are not signed. The headers to send:");
    say("");
}
