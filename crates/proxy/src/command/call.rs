//! `call`: one signed request, as a tenant's shop would send it.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use gatepay_core::envelope::{self, AnswerVerdict};
use gatepay_core::{Catalogue, ClientId, Credential, Kind, operation, sign};
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::tls::{config, fault_text};
use gatepay_proxy::upstream::client::{self, CallError};
use gatepay_proxy::upstream::connect::{ConnectError, UpstreamConnector};
use gatepay_tenancy::settings::UpstreamUrl;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, Response, Uri};
use serde_json::{Map, json};

use super::from::{BodyFrom, SecretFrom};
use super::terminal_text::harmless_lines;
use super::{ExitStatus, complain, fail, say_json};

/// Send a signed request as a tenant.
///
/// The answer's body goes to standard output, byte for byte; status line, headers and the verdict go to standard error.
/// Exits with 0 if the answer says success, 1 if it says failure or no answer came, 64 if the command line is wrong.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct CallCommand {
    /// The method: GET, POST, PUT or DELETE.
    #[arg(value_name = "METHOD")]
    method: Method,
    /// The merchant path, with its query if it has one.
    #[arg(value_name = "PATH", value_parser = target)]
    target: Uri,
    /// The proxy's URL.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = UpstreamUrl::parse)]
    url: UpstreamUrl,
    /// The tenant's client id.
    #[arg(long, value_name = "ID", value_parser = ClientId::parse)]
    client_id: ClientId,
    #[command(flatten)]
    secret: SecretFrom,
    #[command(flatten)]
    body: BodyFrom,
    /// A file of certificates (PEM) to trust for https [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The timeout for connecting, sending and the whole answer together, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 35_000)]
    timeout_ms: u64,
    /// Print every header of the answer, not only X-Request-Id and the proxy's own.
    #[arg(long)]
    include: bool,
    /// Print one JSON object instead: status, headers, the body as text, verdict and code; or the error.
    #[arg(long, conflicts_with = "include")]
    json: bool,
}

const EXAMPLE: &str = "\
Example:
  gatepay-proxy call --client-id acme --secret-file acme.secret \\
    --data '{\"merchantTradeNo\":\"A-1\"}' POST /v1/pay/order/query | jq .data";

/// Parses a path and query without scheme or host.
fn target(text: &str) -> Result<Uri, String> {
    if !text.starts_with('/') {
        return Err("must begin with `/`".to_owned());
    }
    text.parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())
}

impl CallCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let (upstream, request) = match self.prepare() {
            Ok(prepared) => prepared,
            Err(error) => {
                complain(error);
                return ExitStatus::Usage;
            }
        };
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return fail(error),
        };
        match runtime.block_on(client::send(
            upstream,
            request,
            Duration::from_millis(self.timeout_ms),
        )) {
            Ok(answer) if self.json => self.report_json(&answer),
            Ok(answer) => self.report(&answer),
            Err(error) if self.json => {
                let sent = matches!(error, CallError::Lost(_));
                say_json(&json!({ "sent": sent, "error": self.advice(&error) }));
                ExitStatus::Failed
            }
            Err(error) => fail(self.advice(&error)),
        }
    }

    fn prepare(&self) -> Result<(UpstreamConnector, Request<Bytes>), String> {
        let credential = Credential::new(self.client_id.clone(), &self.secret.key()?);
        let body = Bytes::from(self.body.read()?);
        let tls = if self.url.tls {
            Some(config::client(self.ca.as_deref())?)
        } else {
            None
        };
        let limit = Duration::from_millis(self.timeout_ms);
        let upstream = UpstreamConnector::new(self.url.clone(), tls, limit)
            .map_err(|error| error.to_string())?;

        let mut request = Request::builder()
            .method(&self.method)
            .uri(&self.target)
            .header(HOST, upstream.authority())
            .header(
                USER_AGENT,
                concat!("gatepay-proxy/", env!("CARGO_PKG_VERSION")),
            );
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let stamp = Clock::system().stamp();
        for (name, value) in sign::headers(&credential, &stamp.as_stamp(), &body) {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| error.to_string())?;
        Ok((upstream, request))
    }

    fn report(&self, answer: &Response<Bytes>) -> ExitStatus {
        complain(format_args!("{:?} {}", answer.version(), answer.status()));
        for (name, value) in answer.headers() {
            if self.include
                || name == "x-request-id"
                || name.as_str().starts_with("x-gatepay-proxy-")
            {
                complain(format_args!(
                    "{name}: {}",
                    String::from_utf8_lossy(value.as_bytes())
                ));
            }
        }
        let mut out = io::stdout().lock();
        // The reader may be gone (`| head`); that is no fault of the command.
        let _ = if out.is_terminal() {
            let text = String::from_utf8_lossy(answer.body());
            let text = text.strip_suffix('\n').unwrap_or(&text);
            writeln!(out, "{}", harmless_lines(text))
        } else {
            out.write_all(answer.body()).and_then(|()| out.flush())
        };

        let judgement = envelope::judge(self.kind(), answer.status().as_u16(), answer.body());
        match judgement.code {
            Some(code) => complain(format_args!("{}, code {code}", judgement.verdict)),
            None => complain(judgement.verdict),
        }
        exit_of(judgement.verdict)
    }

    fn report_json(&self, answer: &Response<Bytes>) -> ExitStatus {
        let mut headers = Map::new();
        for name in answer.headers().keys() {
            let values = answer.headers().get_all(name).iter();
            let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
            let value = values.collect::<Vec<_>>().join(", ");
            headers.insert(name.to_string(), value.into());
        }
        let judgement = envelope::judge(self.kind(), answer.status().as_u16(), answer.body());
        say_json(&json!({
            "sent": true,
            "status": answer.status().as_u16(),
            "headers": headers,
            "body": String::from_utf8_lossy(answer.body()),
            "verdict": judgement.verdict.to_string(),
            "code": judgement.code.map(|code| code.to_string()),
        }));
        exit_of(judgement.verdict)
    }

    /// The kind of the call. A call that the catalogue lacks is judged as a money call, the strictest kind.
    fn kind(&self) -> Kind {
        let catalogue = Catalogue::standard();
        operation::Method::parse(self.method.as_str())
            .and_then(|method| catalogue.merchant(method, self.target.path()))
            .map_or(Kind::Money, |position| catalogue.rows()[position].kind)
    }

    /// The fault, and how to resolve it.
    fn advice(&self, error: &CallError) -> String {
        let at = self.url.authority();
        match error {
            CallError::NotSent(ConnectError::Connect(cause))
                if cause.kind() == io::ErrorKind::ConnectionRefused =>
            {
                format!(
                    "nothing listens at {at}, nothing was sent; start the proxy with `gatepay-proxy serve`, try it with \
                 `gatepay-proxy demo`, or give its address with --url"
                )
            }
            CallError::NotSent(ConnectError::Tls(cause)) => format!(
                "{at}: tls: {}; nothing was sent; name the proxy's own certificates with --ca, or use http:// if it has none",
                fault_text::of_handshake(cause)
            ),
            CallError::NotSent(cause) => format!("{at}: {cause}; nothing was sent"),
            CallError::Lost(cause) if self.kind() == Kind::Read => format!("{at}: {cause}"),
            CallError::Lost(cause) => format!(
                "{at}: {cause}; the request was sent and its outcome is unknown: look the call up before you send it again"
            ),
        }
    }
}

fn exit_of(verdict: AnswerVerdict) -> ExitStatus {
    if verdict == AnswerVerdict::Success {
        ExitStatus::Fine
    } else {
        ExitStatus::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use gatepay_core::{Signature, SigningKey, Stamp, verify};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        call: CallCommand,
    }

    fn call(arguments: &[&str]) -> Result<CallCommand, String> {
        // Cargo sets this variable for every test; its content serves as the secret.
        let before = ["call", "--client-id", "acme", "--secret-env", SECRET];
        let line = Line::try_parse_from([&before, arguments].concat());
        line.map(|line| line.call)
            .map_err(|error| error.to_string())
    }

    const SECRET: &str = "CARGO_PKG_NAME";

    #[tokio::test]
    async fn a_call_is_signed_over_its_very_body() {
        let call = call(&[
            "--data",
            "{ }\n",
            "--url",
            "http://[::1]:8081",
            "POST",
            "/v1/pay/order?a=1",
        ])
        .unwrap();
        let (_, request) = call.prepare().unwrap();
        assert_eq!(
            (request.method().as_str(), request.uri()),
            ("POST", &Uri::from_static("/v1/pay/order?a=1"))
        );
        let header = |name: &str| request.headers()[name].as_bytes().to_vec();
        assert_eq!(
            (&header("host")[..], &header("content-type")[..]),
            (&b"[::1]:8081"[..], &b"application/json"[..])
        );
        let (timestamp, nonce) = (header("x-gatepay-timestamp"), header("x-gatepay-nonce"));
        let stamp = Stamp::parse(&timestamp, &nonce).unwrap();
        let claimed = Signature::parse(&header("x-gatepay-signature"))
            .ok()
            .unwrap();
        let body = request.into_body();
        assert_eq!(&body[..], b"{ }\n");
        assert!(verify(
            &SigningKey::new(&call.secret.key().unwrap()),
            &stamp,
            &body,
            &claimed
        ));
    }

    #[test]
    fn without_a_body_there_is_no_content_type() {
        let (_, request) = call(&["GET", "/v1/pay/balance"])
            .unwrap()
            .prepare()
            .unwrap();
        assert!(!request.headers().contains_key(CONTENT_TYPE));
    }

    #[test]
    fn a_target_is_a_path() {
        for target in ["v1/pay/order", "http://127.0.0.1/v1", "/a b"] {
            assert!(call(&["GET", target]).is_err(), "{target}");
        }
    }

    #[test]
    fn a_failed_call_prints_a_remedy_and_whether_the_request_was_sent() {
        let refused = || {
            CallError::NotSent(ConnectError::Connect(
                io::ErrorKind::ConnectionRefused.into(),
            ))
        };
        let lost = || CallError::Lost("no whole answer within 50 ms".to_owned());
        let refund = call(&["POST", "/v1/pay/order/refund"]).unwrap();
        let query = call(&["POST", "/v1/pay/order/query"]).unwrap();
        assert!(
            refund
                .advice(&refused())
                .starts_with("nothing listens at 127.0.0.1:8080, nothing was sent; start")
        );
        assert!(
            refund
                .advice(&lost())
                .ends_with("is unknown: look the call up before you send it again")
        );
        assert_eq!(
            query.advice(&lost()),
            "127.0.0.1:8080: no whole answer within 50 ms"
        );
    }
}
