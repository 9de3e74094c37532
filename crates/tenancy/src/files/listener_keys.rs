//! The keys that listeners have in common.

use std::net::SocketAddr;

use crate::files::secrets::SecretSources;
use crate::model::tls_files::ListenTls;
use crate::syntax::document::ConfigValue;
use crate::syntax::table_reader::{TableReader, ValueFault};
use crate::syntax::value;

pub(super) fn listen_tls(
    mut reader: TableReader<'_>,
    sources: SecretSources<'_>,
) -> Option<ListenTls> {
    let path = || value::path(sources.folder);
    let certificate = reader.required("certificate", path());
    let key = reader.required("key", path());
    let client_ca = reader.optional("client_ca", path());
    reader.finish();
    Some(ListenTls {
        certificate: certificate?,
        key: key?,
        client_ca,
    })
}

pub(super) fn address(value: &ConfigValue) -> Result<SocketAddr, ValueFault> {
    let parse = |text: &str| {
        let address = text.parse::<SocketAddr>();
        let address = address.map(|it| SocketAddr::new(it.ip().to_canonical(), it.port()));
        address.map_err(|_| "must be an address and a port, like \"127.0.0.1:8080\"")
    };
    value::text(parse)(value)
}

/// Whether two listeners cannot both have their address. Port 0 lets the system choose another each time.
pub(super) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let every = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (every || one.ip() == other.ip())
}
