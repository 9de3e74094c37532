//! The configuration of the running process, as its admin listener gives it.

use gatepay_tenancy::ConfigOutline;
use http::Method;

use crate::command::admin_client::AdminClient;

/// Asks the running process for its configuration.
pub(super) fn outline(admin: &AdminClient<'_>) -> Result<ConfigOutline, String> {
    let outline = admin.ask(&Method::GET, "/-/registry");
    let outline = outline.map_err(|failure| failure.to_string())?;
    serde_json::from_slice(&outline).map_err(|error| {
        format!(
            "the process at {} is of another version: {error}",
            admin.address
        )
    })
}
