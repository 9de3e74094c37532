//! Admin client: requests to the admin listener of the running process.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use gatepay_core::query_of;
use gatepay_core::visible::visible;
use gatepay_proxy::upstream::client;
use gatepay_proxy::upstream::connect::UpstreamConnector;
use gatepay_tenancy::UpstreamUrl;
use gatepay_tenancy::load::{WhatIf, load_what_if};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::config_file::ConfigFile;
use super::from::file_fault;
use super::{ExitStatus, complain, environment, say, say_json};

/// The timeout for the answer: an answer about a hundred thousand tenants takes a few seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The running process, as a command names it.
#[derive(Args)]
pub(crate) struct AdminArguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The address of the running process's admin listener [default: admin.address of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// A file that holds a token: of the admin listener, or of an operator of it.
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// The admin listener of a running process.
pub(crate) struct AdminClient<'a> {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// The file of the token, if the listener requires one.
    pub(crate) token: Option<&'a Path>,
}

/// Why there is no answer.
pub(crate) struct AdminRefusal {
    address: SocketAddr,
    /// The status, if the process answered.
    status: Option<StatusCode>,
    text: String,
}

impl AdminArguments {
    /// Sends a request with these parameters, of which those without a value are left out. Prints the answer as JSON, or
    /// the lines about it.
    pub(crate) fn run(
        &self,
        method: &Method,
        path: &str,
        parameters: &[(&str, Option<&str>)],
        lines: impl FnOnce(&Value) -> Vec<String>,
    ) -> ExitStatus {
        self.run_judged(method, path, parameters, (lines, |_: &Value| true))
    }

    /// The same; the command fails if the judge finds the answer wanting.
    pub(crate) fn run_judged(
        &self,
        method: &Method,
        path: &str,
        parameters: &[(&str, Option<&str>)],
        (lines, is_fine): (
            impl FnOnce(&Value) -> Vec<String>,
            impl FnOnce(&Value) -> bool,
        ),
    ) -> ExitStatus {
        let exit = |answer: &Value| {
            if is_fine(answer) {
                ExitStatus::Fine
            } else {
                ExitStatus::Failed
            }
        };
        self.run_coded(method, path, parameters, (lines, exit))
    }

    /// The same; the answer decides how the command ends.
    pub(crate) fn run_coded(
        &self,
        method: &Method,
        path: &str,
        parameters: &[(&str, Option<&str>)],
        (lines, exit): (
            impl FnOnce(&Value) -> Vec<String>,
            impl FnOnce(&Value) -> ExitStatus,
        ),
    ) -> ExitStatus {
        let answer = match self.ask(method, path, parameters) {
            Ok(answer) => answer,
            Err(exit) => return exit,
        };
        if self.json {
            say_json(&answer);
        } else {
            for line in lines(&answer) {
                say(visible(&line));
            }
        }
        exit(&answer)
    }

    /// The configuration's file.
    pub(crate) fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// Whether JSON is printed instead of text.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The answer; the reason why there is none is printed.
    pub(crate) fn ask(
        &self,
        method: &Method,
        path: &str,
        parameters: &[(&str, Option<&str>)],
    ) -> Result<Value, ExitStatus> {
        let given = parameters.iter();
        let given = given.filter_map(|(name, value)| value.map(|value| (*name, value)));
        let query = query_of(given);
        let admin = AdminClient {
            address: self.address()?,
            token: self.admin_token_file.as_deref(),
        };
        let answer = admin.ask(method, &format!("{path}?{query}"));
        let answer = answer.map_err(|refusal| {
            complain(visible(&refusal.to_string()));
            match refusal.status {
                Some(StatusCode::BAD_REQUEST) => ExitStatus::Usage,
                _ => ExitStatus::Failed,
            }
        })?;
        serde_json::from_slice(&answer).map_err(|_no_json| {
            complain(format_args!(
                "the process at {} is of another version",
                admin.address
            ));
            ExitStatus::Failed
        })
    }

    fn address(&self) -> Result<SocketAddr, ExitStatus> {
        if let Some(address) = self.admin {
            return Ok(address);
        }
        let what_if = WhatIf {
            file: None,
            secrets_elsewhere: true,
        };
        let configuration = load_what_if(self.config.path(), &environment, what_if);
        let configuration = configuration.map_err(|problems| {
            problems.iter().for_each(complain);
            ExitStatus::Usage
        })?;
        Ok(configuration.settings.admin.address)
    }
}

impl AdminClient<'_> {
    /// The body of the answer with status 200.
    pub(crate) fn ask(&self, method: &Method, target: &str) -> Result<Bytes, AdminRefusal> {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let refusal = |status, text| AdminRefusal {
            address,
            status,
            text,
        };
        let sent = self.send(address, method, target);
        let (status, body) = sent.map_err(|text| refusal(None, text))?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body).trim_end().to_owned();
        Err(refusal(Some(status), text))
    }

    fn send(
        &self,
        address: SocketAddr,
        method: &Method,
        target: &str,
    ) -> Result<(StatusCode, Bytes), String> {
        if address.port() == 0 {
            return Err(
                "admin.address has no fixed port; give the address with --admin".to_owned(),
            );
        }
        let url =
            UpstreamUrl::parse(&format!("http://{address}")).map_err(|error| error.to_string())?;
        let upstream =
            UpstreamConnector::new(url, None, TIMEOUT).map_err(|error| error.to_string())?;
        let request = Request::builder().method(method).uri(target);
        let mut request = request.header(HOST, address.to_string());
        if let Some(path) = self.token {
            request = request.header(AUTHORIZATION, bearer(path)?);
        }
        let request = request
            .body(Bytes::new())
            .map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let answer = runtime
            .block_on(client::send(upstream, request, TIMEOUT))
            .map_err(|error| error.to_string())?;
        Ok((answer.status(), answer.into_body()))
    }
}

fn bearer(path: &Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| file_fault(path, &error))?;
    let bearer = Zeroizing::new(format!("Bearer {}", text.trim_end_matches(['\r', '\n'])));
    let mut bearer = HeaderValue::from_str(&bearer)
        .map_err(|_| format!("{}: holds no token", path.display()))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

impl fmt::Display for AdminRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the process at {}: ", self.address)?;
        if let Some(status) = self.status {
            write!(f, "{status}: ")?;
        }
        f.write_str(&self.text)
    }
}
