//! Configuration files become settings, a catalogue and an immutable registry of tenants and operators, or a list of
//! every problem in them.
//!
//! [`load()`] reads `proxy.toml` and the files of tenants and operators it names, all of them, and answers with a
//! [`Configuration`] whose types cannot be wrong, or with every [`Problem`] at once: file, line, key, and never a byte
//! of a value, since a value may be a secret in the wrong place. [`onboard::add`] writes the files of a new tenant, [`edit`]
//! changes them.
//!
//! [`Plan`] says what one configuration changes compared with another.
//!
//! What this crate deliberately is not: it knows no HTTP, opens no socket, logs nothing, looks at no file unasked, and reads
//! neither a clock nor the process's environment nor a source of randomness; they are arguments.
//!
//! Read in this order: what comes out ([`party`], [`tenant`], [`operator`], [`permissions`], [`settings`], [`url`],
//! [`registry`]), how it is asked for ([`mod@load`], [`watch`], [`onboard`], [`edit`]), how two are compared ([`facts`], [`plan`]), how a file is taken apart (`regular`, `document`, `reader`,
//! `value`), what each file may say (`proxy_file`, `operations`, `paths`, `party_file`, `tenant_file`, `operator_file`,
//! `credentials`), which schemas come of that ([`schema`]), what nobody may have twice (`claims`), and the one place that reads keys ([`secrets`]).

pub mod configuration;
pub mod edit;
pub mod facts;
pub mod facts_map;
pub mod load;
pub mod onboard;
pub mod operator;
pub mod party;
pub mod permissions;
pub mod plan;
pub mod problem;
pub mod registry;
pub mod schema;
pub mod secrets;
pub mod settings;
pub mod snapshot;
pub mod tenant;
pub mod url;
pub mod watch;

mod claims;
mod credentials;
mod document;
mod durable;
mod look;
mod operations;
mod operator_file;
mod party_file;
mod party_files;
mod paths;
mod permissions_file;
mod proxy_file;
mod reader;
mod regular;
mod schema_recorder;
mod tenant_file;
mod value;
mod written;

pub use configuration::Configuration;
pub use load::load;
pub use operator::Operator;
pub use party::{
    DatedCredential, Limits, LimitsShadow, Party, PartyId, Rate, ReplayRule, Standing,
};
pub use permissions::Permissions;
pub use plan::{Hash, Outline, Plan};
pub use problem::Problem;
pub use registry::{Found, Registry, Who};
pub use settings::Settings;
pub use snapshot::Side;
pub use tenant::{SubAccount, Tenant};
pub use url::UpstreamUrl;
pub use watch::Watch;
