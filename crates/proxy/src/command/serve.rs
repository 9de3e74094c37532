//! `serve`: the proxy itself.

use std::io;
use std::path::PathBuf;

use clap::Args;
use gatepay_proxy::activation::{self, Stage};
use gatepay_proxy::clock::Clock;
use gatepay_proxy::server::{Ended, Server};
use gatepay_tenancy::Watch;

use super::{Exit, Signals, complain, environment, fail, log_to_stderr};

/// Serve tenants until SIGTERM or Ctrl-C, then drain; a second signal ends the drain at once.
///
/// Changed files are brought in every `poll_ms`, and at once on SIGHUP or POST /-/reload.
///
/// Sockets that systemd passes are used instead of binding, and systemd is told when it serves and when it ends.
///
/// Access lines go to standard output, everything else to standard error. Exits with 0 when drained, 1 if it could not
/// start, 2 if requests were still in flight at the drain's deadline, 64 for a wrong configuration.
#[derive(Args)]
pub(crate) struct Serve {
    /// The process's configuration; it names the tenants' folder.
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

impl Serve {
    pub(crate) fn run(self) -> Exit {
        let (watch, configuration) = match Watch::open(&self.config, &environment) {
            Ok(opened) => opened,
            Err(problems) => {
                problems.iter().for_each(complain);
                return Exit::Usage;
            }
        };
        let _log = log_to_stderr(configuration.settings.log.format);
        let tenants = configuration.registry.tenants().len();
        if tenants == 0 {
            tracing::warn!(folder = %configuration.settings.tenants.display(), "there are no tenants: every request will be refused");
        }
        let upstream = configuration.settings.upstream.url.authority();
        let sockets = match activation::inherited() {
            Ok(sockets) => sockets,
            Err(error) => return fail(format_args!("cannot start: inherited sockets: {error}")),
        };
        // Before it is said to serve: whoever is told so may end it at once, in order, or have it reload.
        let listening = Signals::listen().and_then(|signals| Ok((signals.hangup()?, signals)));
        let (mut hangup, mut signals) = match listening {
            Ok(listening) => listening,
            Err(error) => return fail(format_args!("cannot start: signals: {error}")),
        };
        let mut server = match Server::start(
            configuration,
            sockets,
            Clock::system(),
            Box::new(io::stdout()),
            false,
        ) {
            Ok(server) => server,
            Err(error) => return fail(format_args!("cannot start: {error}")),
        };
        if let Err(error) = server.follow(watch, environment) {
            return fail(format_args!("cannot start: {error}"));
        }
        tracing::info!(
            address = %server.address(), admin = %server.admin_address(), upstream, tenants,
            version = env!("CARGO_PKG_VERSION"), "serving"
        );
        activation::tell(Stage::Ready);
        if server.app().is_starting() {
            let guard = server.app().settings.window.future_ms;
            tracing::warn!(
                guard_ms = guard,
                "starting: stamps of the run before cannot be told from repeats, so requests wait"
            );
        }
        let signal = signals.wait_and(&mut hangup, server.reload());
        tracing::info!(signal, "asked to end");
        activation::tell(Stage::Stopping);
        server.leave();
        let hurry = server.hurry();
        std::thread::spawn(move || {
            signals.wait();
            tracing::warn!("asked again: ending at once");
            hurry();
        });
        match server.wait() {
            Ended::Drained => Exit::Fine,
            Ended::Late => Exit::Late,
        }
    }
}
