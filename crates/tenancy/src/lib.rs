//! Configuration files become settings, a catalogue and an immutable registry of tenants and operators, or a list of
//! every problem in them.
//!
//! [`load()`] reads `proxy.toml` and the files of tenants and operators it names, all of them, and answers with a
//! [`Configuration`] whose types cannot be wrong, or with every [`Problem`] at once: file, line, key, and never a byte
//! of a value, since a value may be a secret in the wrong place. [`edit::onboard`] writes the files of a new tenant, [`edit`]
//! changes them.
//!
//! [`Plan`] has the changes between two configurations.
//!
//! What this crate deliberately is not: it knows no HTTP, opens no socket, logs nothing, looks at no file unasked, and reads
//! neither a clock nor the process's environment nor a source of randomness; they are arguments.
//!
//! Rooms, in reading order: the types that come out (`model`), files as such (`disk`), TOML and JSON (`syntax`), the keys
//! of each file (`files`), reading all of them ([`mod@load`]), comparing two configurations ([`plan`]), following files
//! that change ([`watch`]), changing them ([`edit`]), and JSON Schemas of them ([`schema`]).

mod model;

mod disk;
mod files;
mod syntax;
mod threads;

pub mod edit;
pub mod load;
pub mod plan;
pub mod schema;
pub mod watch;

pub use files::secrets;
pub use load::load;
pub use model::configuration::Configuration;
pub use model::facts::ConfigFacts;
pub use model::operator::Operator;
pub use model::party::{
    DatedCredential, LimitsShadow, Party, PartyId, PartyLimits, Rate, ReplayRule, Standing,
};
pub use model::permissions::Permissions;
pub use model::registry::{CredentialMatch, PartyRef, Registry};
pub use model::settings::Settings;
pub use model::snapshot::ConfigSnapshot;
pub use model::tenant::{SubAccount, Tenant};
pub use model::url::UpstreamUrl;
pub use model::{
    caps, destinations, notifications, operator, party, permissions, registry, settings, tenant,
    url,
};
pub use plan::facts;
pub use plan::{ConfigHash, ConfigOutline, Plan};
pub use syntax::problem;
pub use syntax::problem::Problem;
pub use watch::ConfigWatch;
