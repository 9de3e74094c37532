//! `sandbox`: the GatePay emulator by itself.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gatepay_core::delivery_schedule::{GATEPAY_CURRENT, GATEPAY_OLD_PAYMENT, GATEPAY_OLDER};
use gatepay_core::{ClientId, Credential};
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::tls::config;
use gatepay_sandbox::{
    AnswerForms, NotificationSending, NumbersUniquePer, OrderLookUps, Sandbox as Emulator,
    SandboxConfig, SubAccount,
};

use super::from::SecretFrom;
use super::signals::wait_for_signal;
use super::{ExitStatus, complain, fail, say};

/// Run the GatePay emulator: it verifies the institution's requests and keeps orders in memory.
/// It is for trials; it contains no code or data of GatePay. Point `upstream.url` at it, with the same client id and
/// secret as `[[institution.credential]]`. `POST /-/sandbox/pay` with {"prepayId":"…"} pays an order.
#[derive(Args)]
pub(crate) struct SandboxCommand {
    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// The institution's client id.
    #[arg(long, value_parser = ClientId::parse)]
    client_id: ClientId,
    #[command(flatten)]
    secret: SecretFrom,
    /// A sub-account that X-GatePay-On-Behalf-Of may name; may be repeated.
    #[arg(long, value_name = "ID", required = true)]
    sub_account: Vec<String>,
    /// The institution's own account, for transfers and charges.
    #[arg(long, value_name = "ID", default_value = "1000000000")]
    institution_account: String,
    /// The institution's merchant id; if given, fee settings must carry it.
    #[arg(long, value_name = "ID")]
    merchant_id: Option<String>,
    /// The scope within which a merchant order number is unique; GatePay's documentation leaves this open.
    #[arg(long, value_enum, default_value = "sub-account")]
    numbers_unique_per: UniquePer,
    /// The orders that a look-up shows to a sub-account; GatePay's documentation leaves this open.
    #[arg(long, value_enum, default_value = "own-orders")]
    order_look_ups: ShownOrders,
    /// The form of answers where GatePay's official client libraries and its documentation differ.
    #[arg(long, value_enum, default_value = "clients")]
    answer_forms: FormsArgument,
    /// Delay every answer by this time, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
    /// The time by which the emulator's clock is ahead of this machine's, in milliseconds; negative if behind.
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    clock_ahead_ms: i64,
    /// Serve TLS with this certificate chain (PEM); needs --tls-key.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    #[command(flatten)]
    notify: NotifyArguments,
}

#[derive(Args)]
struct NotifyArguments {
    /// Notify this URL as GatePay notifies the institution's: of payments, refunds, payouts and other business, signed with
    /// the institution's secret. An https URL, or http on this machine. `GET /-/sandbox/notifications` lists the attempts;
    /// `POST /-/sandbox/notify` with {"body":…} or {"id":…} sends one by hand.
    #[arg(long = "notify", value_name = "URL")]
    url: Option<String>,
    /// Trust only the certificates in this file (PEM) for an https URL; without it, those that this machine trusts.
    #[arg(long = "notify-ca", value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// The delays after which an unacknowledged notification is repeated; GatePay's pages have three.
    #[arg(
        long = "notify-schedule",
        value_enum,
        default_value = "current",
        requires = "url"
    )]
    schedule: ScheduleArgument,
    /// Divide these delays by this number.
    #[arg(
        long = "notify-speed",
        value_name = "N",
        default_value = "1",
        requires = "url"
    )]
    speed: NonZeroU32,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleArgument {
    /// 15 repetitions in 24 hours.
    Current,
    /// Each delay of the current one once.
    Older,
    /// Every 3 seconds, 10 times.
    OldPayment,
}

#[derive(Clone, Copy, ValueEnum)]
enum UniquePer {
    SubAccount,
    Institution,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShownOrders {
    OwnOrders,
    AllOrders,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormsArgument {
    /// As the libraries' types read them.
    Clients,
    /// As the documentation's samples print them.
    Documentation,
}

impl From<UniquePer> for NumbersUniquePer {
    fn from(argument: UniquePer) -> Self {
        match argument {
            UniquePer::SubAccount => Self::SubAccount,
            UniquePer::Institution => Self::Institution,
        }
    }
}

impl From<ShownOrders> for OrderLookUps {
    fn from(argument: ShownOrders) -> Self {
        match argument {
            ShownOrders::OwnOrders => Self::OwnOrders,
            ShownOrders::AllOrders => Self::AllOrders,
        }
    }
}

impl From<FormsArgument> for AnswerForms {
    fn from(argument: FormsArgument) -> Self {
        match argument {
            FormsArgument::Clients => Self::Clients,
            FormsArgument::Documentation => Self::Documentation,
        }
    }
}

impl SandboxCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let secret = match self.secret.key() {
            Ok(secret) => secret,
            Err(error) => {
                complain(error);
                return ExitStatus::Usage;
            }
        };
        let mut config = SandboxConfig::new(
            Credential::new(self.client_id.clone(), &secret),
            clock_ahead(self.clock_ahead_ms),
        );
        config.sub_accounts = self
            .sub_account
            .into_iter()
            .map(SubAccount::active)
            .collect();
        config.institution_account = self.institution_account;
        config.merchant_id = self.merchant_id;
        config.answer_delay = Duration::from_millis(self.delay_ms);
        config.numbers_unique_per = self.numbers_unique_per.into();
        config.order_look_ups = self.order_look_ups.into();
        config.answer_forms = self.answer_forms.into();
        if let Some(url) = self.notify.url.clone() {
            let credential = Credential::new(self.client_id, &secret);
            match self.notify.sending(url, credential) {
                Ok(sending) => config.notifications = Some(sending),
                Err(error) => return fail(error),
            }
        }
        let scheme = if self.tls_certificate.is_some() {
            "https"
        } else {
            "http"
        };
        if let Some((certificate, key)) = self.tls_certificate.zip(self.tls_key) {
            match config::server(&certificate, &key, None) {
                Ok(server) => config.tls = Some(Arc::new(server)),
                Err(error) => return fail(error),
            }
        }
        let emulator = match Emulator::start(config, self.listen) {
            Ok(emulator) => emulator,
            Err(error) if error.kind() == ErrorKind::InvalidInput => return fail(error),
            Err(error) => return fail(format_args!("cannot listen on {}: {error}", self.listen)),
        };
        say(format_args!(
            "emulating GatePay on {scheme}://{}",
            emulator.address()
        ));
        match wait_for_signal() {
            Ok(_) => ExitStatus::Fine,
            Err(error) => fail(error),
        }
    }
}

impl NotifyArguments {
    fn sending(self, url: String, credential: Credential) -> Result<NotificationSending, String> {
        let mut sending = NotificationSending::new(url, credential);
        sending.schedule = match self.schedule {
            ScheduleArgument::Current => GATEPAY_CURRENT,
            ScheduleArgument::Older => GATEPAY_OLDER,
            ScheduleArgument::OldPayment => GATEPAY_OLD_PAYMENT,
        };
        sending.speed = self.speed;
        if !sending.url.starts_with("http://") {
            sending.tls = Some(config::client(self.ca.as_deref())?);
        }
        Ok(sending)
    }
}

fn clock_ahead(by_ms: i64) -> gatepay_sandbox::Clock {
    let clock = wall_clock(Clock::system());
    Arc::new(move || clock().saturating_add_signed(by_ms))
}

/// The proxy's clock in the form that the emulator takes.
pub(crate) fn wall_clock(clock: Clock) -> gatepay_sandbox::Clock {
    Arc::new(move || clock.unix_ms())
}
