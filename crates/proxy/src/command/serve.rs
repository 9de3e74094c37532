//! `serve`: the proxy itself.

use std::error::Error;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::process::page_size::SmallPages;
use gatepay_proxy::process::systemd::{self, ServiceStage};
use gatepay_proxy::record::log_level::LogLevel;
use gatepay_proxy::server::{Server, ServerExit};
use gatepay_tenancy::load::unread_files;
use gatepay_tenancy::{ConfigWatch, Configuration};
use parking_lot::Mutex;
use tracing_appender::non_blocking::WorkerGuard;

use super::config_file::ConfigFile;
use super::signals::{SignalAction, SignalHandler};
use super::start_fault::StartPlaces;
use super::{ExitStatus, UNREAD, complain, environment, fail, log_to_stderr};

/// The time the log gets to write its last lines when the process has to end.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Serve tenants until SIGTERM, SIGQUIT or Ctrl-C, then drain; a second signal cuts requests in flight, a third ends the
/// process at once.
/// The process ends within `drain.deadline_ms`, even if a thread is stuck.
/// Changed files are read every `poll_ms`, and at once on SIGHUP or POST /-/reload. SIGUSR1 writes more lines to the
/// program's log, SIGUSR2 fewer; the environment variable GATEPAY_LOG sets its first level.
/// Sockets passed by systemd are used instead of binding, and systemd is notified when the process serves and ends.
/// Access lines go to standard output, the program's log to standard error. Exits with 0 when drained, 1 if it could not
/// start, 2 if requests were still in flight at the drain's deadline, 64 for a wrong configuration.
#[expect(clippy::doc_markdown, reason = "the text of --help")]
#[derive(Args)]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    config: ConfigFile,
}

impl ServeCommand {
    pub(crate) fn run(self) -> ExitStatus {
        // The handler comes first: from here on no signal is lost, and only the ending signals can end the process.
        let mut signals = match SignalHandler::listen_for_serving() {
            Ok(signals) => signals,
            Err(error) => return fail(format_args!("cannot start: signals: {error}")),
        };
        let starting = SmallPages::begin();
        let (watch, configuration) = match ConfigWatch::open(self.config.path(), &environment) {
            Ok(opened) => opened,
            Err(problems) => {
                problems.iter().for_each(complain);
                return ExitStatus::Usage;
            }
        };
        let (log, level) = match log_to_stderr(configuration.settings.log.format) {
            Ok(log) => log,
            Err(error) => {
                complain(error);
                return ExitStatus::Usage;
            }
        };
        let log = Arc::new(Mutex::new(Some(log)));
        warn_of(&configuration);
        let places = StartPlaces::of(self.config.path(), &configuration.settings);
        let server = match start(configuration, watch) {
            Ok(server) => server,
            Err(error) => {
                let fault = error.downcast_ref().map(|fault| places.tell(fault));
                let fault = fault.unwrap_or_else(|| error.to_string());
                return fail(format_args!("cannot start: {fault}"));
            }
        };
        drop(starting);
        server.control_log(level.clone());
        act_until_asked_to_end(&server, &level, &mut signals);
        drain(server, signals, &log)
    }
}

/// Logs warnings about an effect of the configuration that is probably not intended.
fn warn_of(configuration: &Configuration) {
    let Configuration {
        settings, registry, ..
    } = configuration;
    if registry.tenants().is_empty() {
        tracing::warn!(folder = %settings.tenants.display(), "no tenant is configured: every request will be refused");
    }
    for file in unread_files(settings) {
        tracing::warn!(file = %file.display(), "{UNREAD}");
    }
}

/// Starts the server, and tells the log and systemd.
fn start(configuration: Configuration, watch: ConfigWatch) -> Result<Server, Box<dyn Error>> {
    let tenants = configuration.registry.tenants().len();
    let upstream = configuration.settings.upstream.url.authority();
    let sockets = systemd::inherited().map_err(|error| format!("inherited sockets: {error}"))?;
    let mut server = Server::start(
        configuration,
        sockets,
        Clock::system(),
        Box::new(io::stdout()),
        false,
    )?;
    server.follow(watch, environment)?;
    tracing::info!(
        address = %server.address(), admin = %server.admin_address(), upstream, tenants,
        version = env!("CARGO_PKG_VERSION"), "serving"
    );
    if let Some(address) = server.notify_address() {
        tracing::info!(%address, "receiving GatePay's notifications");
    }
    if let Some(cluster) = &server.app().cluster {
        tracing::info!(
            store = cluster.place(), instance = %cluster.name(), "all instances of this store together admit a request once"
        );
    } else {
        tracing::info!(
            "no [store]: a second process with its own state_dir that fronts the same institution would admit the same requests again"
        );
    }
    systemd::tell(ServiceStage::Ready);
    if server.app().is_starting() {
        let guard = server.app().settings.window.future_ms;
        tracing::warn!(
            guard_ms = guard,
            "starting: requests admitted before this start are unknown, so for guard_ms requests may be refused as `starting`"
        );
    }
    Ok(server)
}

/// Reloads the configuration or changes the log's level at each signal for it, until a signal asks the process to end.
fn act_until_asked_to_end(server: &Server, level: &LogLevel, signals: &mut SignalHandler) {
    let reload = server.reload();
    let signal = loop {
        match signals.next() {
            SignalAction::End(signal) => break signal,
            SignalAction::Reload => reload(),
            SignalAction::MoreLog => level.more(),
            SignalAction::FewerLog => level.fewer(),
        }
    };
    tracing::info!(signal, "signal received: draining");
    systemd::tell(ServiceStage::Stopping);
}

/// Drains the server, and writes the rest of the log.
fn drain(
    server: Server,
    signals: SignalHandler,
    log: &Arc<Mutex<Option<WorkerGuard>>>,
) -> ExitStatus {
    server.leave();
    let backstop = Backstop {
        signals,
        log: Arc::clone(log),
    };
    let (hurry, ends_at) = (server.hurry(), server.ends_at());
    thread::spawn(move || backstop.hold(hurry, ends_at));
    let exit = match server.wait() {
        ServerExit::Drained => ExitStatus::Fine,
        ServerExit::Late => ExitStatus::Late,
    };
    drop(log.lock().take());
    exit
}

/// Ends the process if its drain does not end in time.
struct Backstop {
    signals: SignalHandler,
    log: Arc<Mutex<Option<WorkerGuard>>>,
}

impl Backstop {
    /// Waits until `ends_at`: meanwhile a signal cuts the requests in flight, and another ends the process.
    fn hold(mut self, hurry: impl FnOnce(), ends_at: impl Fn() -> tokio::time::Instant) {
        let mut hurry = Some(hurry);
        loop {
            match (self.signals.next_until(ends_at()), hurry.take()) {
                (
                    Some(SignalAction::Reload | SignalAction::MoreLog | SignalAction::FewerLog),
                    unused,
                ) => {
                    hurry = unused;
                }
                (Some(SignalAction::End(_)), Some(hurry)) => {
                    tracing::warn!("second signal: requests in flight are cut");
                    hurry();
                }
                (Some(SignalAction::End(_)), None) => {
                    tracing::error!("third signal: ending at once; unwritten records are lost");
                    break;
                }
                (None, _) => {
                    tracing::error!("a thread does not end in time: the process ends without it");
                    break;
                }
            }
        }
        self.end();
    }

    /// Ends the process without waiting for any thread.
    fn end(self) -> ! {
        let (written, wait) = mpsc::channel::<()>();
        let log = self.log;
        // Standard error itself may be stuck, so another thread flushes the log.
        thread::spawn(move || {
            drop(log.lock().take());
            drop(written);
        });
        let _ = wait.recv_timeout(LAST_LINES);
        process::exit(ExitStatus::Late.code().into())
    }
}
