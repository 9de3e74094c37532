//! Own operations: calls that the proxy answers itself, without GatePay. They are signed, limited and recorded like any
//! call, so each has a row of the catalogue: where notifications are received, or where there is a store.

use crate::operation::{ApiModule, Method};
use crate::{Kind, Operation, catalogue_rows};

/// A call that the proxy answers itself. It is the tenants' alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnOperation {
    /// `GET /-/notifications`: a page of the tenant's notifications.
    ListNotifications,
    /// `POST /-/notifications/replay`: dead notifications of the tenant are sent again.
    ReplayNotifications,
    /// `GET /-/statement`: what the tenant used on a day.
    ShowStatement,
}

impl OwnOperation {
    /// Every own operation.
    pub const ALL: [Self; 3] = [
        Self::ListNotifications,
        Self::ReplayNotifications,
        Self::ShowStatement,
    ];

    /// Whether the answer is about notifications, which not every store has.
    pub fn is_about_notifications(self) -> bool {
        match self {
            Self::ListNotifications | Self::ReplayNotifications => true,
            Self::ShowStatement => false,
        }
    }

    /// The own operation that a row stands for.
    pub fn of(row: &Operation) -> Option<Self> {
        let path = row.institution_path.as_deref()?;
        let mut all = Self::ALL.into_iter();
        all.find(|own| own.path() == path && own.name() == row.name)
    }

    /// The row for the catalogue. Its institution path is never sent.
    pub fn row(self) -> Operation {
        let (method, kind) = match self {
            Self::ListNotifications | Self::ShowStatement => (Method::Get, Kind::Read),
            Self::ReplayNotifications => (Method::Post, Kind::Write),
        };
        let module = ApiModule::Payment;
        catalogue_rows::tenant_row(self.name(), module, kind, method, self.path())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ListNotifications => "list_notifications",
            Self::ReplayNotifications => "replay_notifications",
            Self::ShowStatement => "show_statement",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::ListNotifications => "/-/notifications",
            Self::ReplayNotifications => "/-/notifications/replay",
            Self::ShowStatement => "/-/statement",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn own_operations_stand_beside_those_of_gatepay_and_are_told_from_them() {
        let standard = Catalogue::standard();
        assert!(
            standard
                .rows()
                .iter()
                .all(|row| OwnOperation::of(row).is_none())
        );
        let own = OwnOperation::ALL.map(OwnOperation::row);
        let rows = [standard.rows(), &own].concat();
        let catalogue = Catalogue::new(rows).unwrap();
        for own in OwnOperation::ALL {
            let row = own.row();
            let at = catalogue.merchant(row.method, own.path()).unwrap();
            assert_eq!(OwnOperation::of(&catalogue.rows()[at]), Some(own));
            assert_eq!(row.off(), None);
        }
    }
}
