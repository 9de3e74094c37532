//! A sub-merchant: its shop's credential, and its configuration in the proxy.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use gatepay_core::{Catalogue, ClientId, Credential, SecretKey};
use gatepay_sandbox::examples::ExampleRequest;
use gatepay_tenancy::{DatedCredential, Operator, Party, PartyId, Rate, SubAccount, Tenant};
use http::Method;
use zeroize::Zeroizing;

use super::Call;

#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) id: &'static str,
    pub(crate) client_id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) sub_account: &'static str,
    adjust: Vec<Adjust>,
}

/// A change to the proxy's configuration of a shop.
type Adjust = Arc<dyn Fn(&mut Party) + Send + Sync>;

pub(crate) fn acme() -> Shop {
    Shop::new("acme", "client-acme", "fake-acme-secret-0001", "2124538349")
}

pub(crate) fn globex() -> Shop {
    Shop::new(
        "globex",
        "client-globex",
        "fake-globex-secret-0002",
        "2124538350",
    )
}

impl Shop {
    pub(crate) fn new(
        id: &'static str,
        client_id: &'static str,
        secret: &'static str,
        sub_account: &'static str,
    ) -> Self {
        Self {
            id,
            client_id,
            secret,
            sub_account,
            adjust: Vec::new(),
        }
    }

    /// Changes the proxy's configuration of the shop.
    pub(crate) fn with(mut self, adjust: impl Fn(&mut Party) + Send + Sync + 'static) -> Self {
        self.adjust.push(Arc::new(adjust));
        self
    }

    pub(crate) fn rate(self, per_second: u32, burst: u32) -> Self {
        self.with(move |tenant| tenant.limits.all = rate(per_second, burst))
    }

    pub(crate) fn seats(self, seats: u32) -> Self {
        self.with(move |tenant| {
            tenant.limits.in_flight = NonZeroU32::new(seats).expect("at least one");
        })
    }

    pub(crate) fn credential(&self) -> Credential {
        credential(self.client_id, self.secret)
    }

    /// The shop as a tenant: a customer of the institution.
    pub(crate) fn tenant(&self, catalogue: &Catalogue) -> Tenant {
        let account = SubAccount::parse(self.sub_account).expect("a good account");
        let mut tenant = Tenant::new(self.party_id(), account, catalogue, self.credentials());
        self.set_up(&mut tenant.party);
        tenant
    }

    /// The shop as an operator: the institution's own back office, without a sub-account.
    pub(crate) fn operator(&self, catalogue: &Catalogue) -> Operator {
        let mut operator = Operator::new(self.party_id(), catalogue, self.credentials());
        self.set_up(&mut operator.party);
        operator
    }

    fn party_id(&self) -> PartyId {
        PartyId::parse(self.id).expect("a good id")
    }

    fn credentials(&self) -> Vec<DatedCredential> {
        vec![DatedCredential::undated(self.credential())]
    }

    fn set_up(&self, party: &mut Party) {
        party.limits.all = rate(10_000, 10_000);
        party.limits.in_flight = NonZeroU32::new(1_000).expect("not zero");
        self.adjust.iter().for_each(|adjust| adjust(party));
    }

    /// The sandbox's example of a valid request, at this path.
    pub(crate) fn calls(&self, path: &str, example: &ExampleRequest) -> Call {
        let method = example.method.as_str().parse().expect("a method");
        let call = Call::new(
            self,
            method,
            &target(path, example.query.as_deref()),
            example.body.clone(),
        );
        match example.content_type {
            Some(content_type) => call.instead("content-type", content_type),
            None => call,
        }
    }

    /// A POST by this shop, signed when it is sent.
    pub(crate) fn post(&self, path: &str, body: impl Into<Bytes>) -> Call {
        Call::new(self, Method::POST, path, body.into())
    }

    /// A GET without a body.
    pub(crate) fn get(&self, path: &str) -> Call {
        self.get_with(path, Bytes::new())
    }

    /// A GET with a body, which is signed like any other.
    pub(crate) fn get_with(&self, path: &str, body: impl Into<Bytes>) -> Call {
        Call::new(self, Method::GET, path, body.into())
    }
}

/// The institution's own back office.
pub(crate) fn office() -> Shop {
    Shop::new("office", "client-office", "fake-office-secret-0003", "")
}

/// The request target: path and query.
pub(crate) fn target(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

pub(crate) fn rate(per_second: u32, burst: u32) -> Rate {
    Rate {
        per_second: NonZeroU32::new(per_second).expect("at least one"),
        burst: NonZeroU32::new(burst).expect("at least one"),
    }
}

/// A credential with a public test secret.
pub(crate) fn credential(client_id: &str, secret_text: &str) -> Credential {
    Credential::new(
        ClientId::parse(client_id).expect("a good client id"),
        &secret(secret_text),
    )
}

/// A public test secret.
pub(crate) fn secret(text: &str) -> SecretKey {
    SecretKey::new(Zeroizing::new(text.to_owned())).expect("a good secret")
}
