//! Money demand: what a money call asks for — how much of which currency, to which target, under which key — or why that
//! cannot be read exactly.
//!
//! Money caps count it. A call that GatePay could read in another way than this module has no demand, but a
//! [`DemandFault`]; while its tenant has caps, such a call is refused. Unlike [`BodyAmounts`](crate::amount::BodyAmounts),
//! which tells the journal what a body states, nothing here is kept as text or left out.
//!
//! Fees are not part of an amount: GatePay adds them by its own table.

mod documented;
mod object_amounts;
mod rows;
mod stated_amount;
mod target;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;

use arrayvec::ArrayString;
use serde_json::value::RawValue;

use crate::body::{BodyReading, BodyValue};
pub use crate::currency_code::CurrencyCode;
use crate::exact_amount::{AmountFault, ExactAmount};
use crate::json::JsonText;
use crate::ledger_key::{LedgerKey, LedgerKeyKind};
use crate::ledger_rows;
use crate::operation::{ApiModule, Kind, MediaType, Operation};
use crate::words::words;
use documented::MoneyNames;
pub use object_amounts::{ObjectAmounts, are_of};
pub use rows::{AmountPlace, MONEY_ROWS, MoneyRow, SpendKey, TargetPlace};
pub use stated_amount::StatedAmount;
pub use target::{AddressPart, MoneyTarget, StatedTarget, TargetEntry};

/// What a money call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyDemand {
    /// What the call does. A refund that names a target of its own is a payout.
    pub kind: DemandKind,
    /// The name under which caps count the call: the operation's, or that of its payouts in disguise.
    pub counted_as: &'static str,
    /// Whether money leaves the account.
    pub direction: MoneyDirection,
    /// The amounts, one for each currency, in the order of the currencies.
    pub parts: Vec<MoneyPart>,
    /// The targets, each once, with the first entry of the body that names it. Empty if the money stays in the account or
    /// goes back to its payer.
    pub targets: Vec<StatedTarget>,
    /// The call's key, if GatePay documents that a repetition under it is one transaction, and the body spells it as
    /// documented. Every call without one counts. That of a refund is the order's id and the number, with a space between them.
    pub key: Option<String>,
}

/// An amount in one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyPart {
    /// The currency.
    pub currency: PartCurrency,
    /// The amount, above zero.
    pub amount: ExactAmount,
}

/// The currency of an amount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartCurrency {
    /// The body states it.
    Stated(CurrencyCode),
    /// It is that of an order, which the ledger knows by this key.
    OfOrder(LedgerKey),
}

/// What a money call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DemandKind {
    /// Money leaves to an address or a Gate user.
    Payout,
    /// Money goes back to its payer, or to a receiver with an account at Gate.
    Refund,
    /// Money goes to Gate users.
    Reward,
    /// One currency is sold for another.
    Conversion,
    /// Gift cards are made.
    GiftCard,
    /// Crypto is sold to a bank account, or bought from one.
    Otc,
    /// A customer's subscription is debited.
    Deduction,
    /// An operator credits a sub-account.
    Transfer,
    /// An operator debits a sub-account.
    Charge,
}

words!(DemandKind {
    Payout = "payouts",
    Refund = "refunds",
    Reward = "rewards",
    Conversion = "conversions",
    GiftCard = "gift_cards",
    Otc = "otc_orders",
    Deduction = "deductions",
    Transfer = "transfers",
    Charge = "charges",
});

/// Whether money leaves the account of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoneyDirection {
    /// It leaves, or changes its currency.
    Out,
    /// It comes in. Caps count it only if they name it.
    In,
}

/// Why the demand of a money call cannot be read exactly. It names fields, and never contains a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemandFault {
    /// No row says where the operation states its amount.
    UnknownOperation,
    /// The body is not one JSON object, or parsers may read it differently.
    Ambiguous,
    /// A field like this one says how much goes where, and no page describes it for this call.
    Undocumented(&'static str),
    /// No page describes the field for this call, and a list of destinations bounds the call, so that every field has to be
    /// known.
    Unknown(FieldName),
    /// The field is missing, empty or zero.
    Missing(&'static str),
    /// The field is not of the documented form, or has two values.
    Misshapen(&'static str),
    /// The field is not an exact amount.
    Amount(&'static str, AmountFault),
    /// The field is not a currency.
    Currency(&'static str),
    /// The refund is of the whole order, whose amount the body does not contain.
    WholeOrder,
    /// The amounts in one currency add up to more than the largest amount.
    TooMuch,
    /// The list has more items, or more currencies, than are counted.
    TooMany(&'static str),
    /// The fields were not read: no rule bound the call when its body was judged.
    NotRead,
}

/// The name of a field that no page describes, for messages: its beginning, with escapes for all that is not plain to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldName(ArrayString<48>);

/// Maximum number of items of a list.
pub const MOST_ITEMS: usize = 2_000;
/// The longest id of an order in a key. GatePay's have up to 19 digits.
const LONGEST_ORDER: usize = 64;
/// Maximum number of currencies of a call.
pub const MOST_PARTS: usize = 16;

impl MoneyRow {
    /// The row of an operation.
    pub fn of(operation: &Operation) -> Option<&'static Self> {
        MONEY_ROWS
            .iter()
            .find(|row| row.operation == operation.name)
    }

    /// Whether money moves between the institution and one of its sub-accounts. Only the institution makes such calls, and the
    /// caps and lists of a sub-account are not about them.
    pub fn is_within_institution(&self) -> bool {
        matches!(self.targets, TargetPlace::Account(_))
    }

    /// The names under which caps count calls to the operation.
    pub fn counted_names(&self) -> impl Iterator<Item = &'static str> {
        [Some(self.operation), self.payout_name]
            .into_iter()
            .flatten()
    }

    /// The names under which caps count the calls whose key a ledger key of this kind is.
    pub fn keyed_by(kind: LedgerKeyKind) -> Vec<&'static str> {
        let is_keyed = |row: &&Self| {
            let ledger = ledger_rows::row(row.operation);
            let mut intents = ledger.into_iter().flat_map(|ledger| ledger.intents);
            row.key.is_some_and(|key| {
                intents.any(|it| it.kind == kind && key.fields().eq(it.fields.iter().copied()))
            })
        };
        let rows = MONEY_ROWS.iter().filter(is_keyed);
        rows.flat_map(Self::counted_names).collect()
    }

    /// The row of the operation whose calls are counted under a name.
    pub fn counted_as(name: &str) -> Option<&'static Self> {
        MONEY_ROWS
            .iter()
            .find(|row| row.counted_names().any(|counted| counted == name))
    }

    /// The names under which caps count the calls that a word selects: a kind of demand (`payouts`), or an operation.
    /// Empty if the word selects nothing.
    pub fn selected_by(word: &str) -> Vec<&'static str> {
        if let Some(row) = MONEY_ROWS.iter().find(|row| row.operation == word) {
            return row.counted_names().collect();
        }
        let kind = DemandKind::parse(word);
        let names = MONEY_ROWS.iter().flat_map(|row| {
            let own = (Some(row.kind) == kind).then(|| row.counted_names());
            let disguised = (kind == Some(DemandKind::Payout)).then_some(row.payout_name);
            own.into_iter().flatten().chain(disguised.flatten())
        });
        names.collect()
    }
}

/// A call as far as it is about money. Names and list items are read once for all questions about it.
pub struct MoneyCall<'r, 'a> {
    operation: &'r Operation,
    reading: &'r BodyReading<'a>,
    /// The reader of the body; `None` if no row says where the operation states its amount.
    reader: Option<DemandReader<'r, 'a>>,
}

impl<'r, 'a> MoneyCall<'r, 'a> {
    /// A call to the operation, with the reading of its body.
    pub fn new(operation: &'r Operation, reading: &'r BodyReading<'a>) -> Self {
        let row = MoneyRow::of(operation);
        Self {
            operation,
            reading,
            reader: row.map(|row| DemandReader::new(row, reading)),
        }
    }

    /// The amounts and targets that the call asks for; `None` if the operation moves no money.
    pub fn demand(&self) -> Option<Result<MoneyDemand, DemandFault>> {
        self.moves_money().then(|| match &self.reader {
            Some(reader) if self.is_json() => reader.read(),
            _ => Err(DemandFault::UnknownOperation),
        })
    }

    /// The targets of the call, each once; none if it moves no money. Unlike the [whole demand](Self::demand) it can be read
    /// although an amount cannot.
    pub fn stated_targets(&self) -> Result<Vec<StatedTarget>, DemandFault> {
        if !self.moves_money() {
            return Ok(Vec::new());
        }
        match &self.reader {
            // A request that states nothing names no target.
            Some(reader)
                if reader.row.targets == TargetPlace::None
                    && self.reading.stated_names().next().is_none() =>
            {
                Ok(Vec::new())
            }
            Some(reader) if self.is_json() => reader.clear_targets(),
            _ => Err(DemandFault::UnknownOperation),
        }
    }

    /// The [targets](Self::stated_targets) of a call that a list of destinations bounds. The body must have no fields but those
    /// that schemas.md describes for the call and published clients send: in any other one GatePay could read a target.
    pub fn bounded_targets(&self) -> Result<Vec<StatedTarget>, DemandFault> {
        let targets = self.stated_targets()?;
        let reader = self.reader.as_ref().filter(|_| self.moves_money());
        if let Some(reader) = reader {
            documented::only_known(reader.row, self.reading)?;
            if let AmountPlace::Items { list, .. } = reader.row.amounts {
                let mut items = reader.items(list)?.iter();
                items.try_for_each(|it| documented::only_known_in_item(reader.row, &it.reading))?;
            }
        }
        Ok(targets)
    }

    /// The call's key, as [`MoneyDemand::key`]. Unlike the whole demand it can be read although an amount cannot: a refund of
    /// the whole order is one transaction too.
    pub fn documented_key(&self) -> Option<String> {
        let reader = self.reader.as_ref().filter(|_| self.is_json())?;
        reader
            .is_clear()
            .then(|| reader.documented_key(reader.row.key?))?
    }

    /// Whether a call that is no payout by its operation may be one by its body: a refund that names a target of its own, whose
    /// target cannot be read exactly, or that states a target which no page describes for it. Halts go by it, also where no cap
    /// counts the call.
    pub fn may_be_disguised_payout(&self) -> bool {
        if !self.moves_money() || self.operation.module == ApiModule::Payout {
            return false;
        }
        let reader = self.reader.as_ref();
        let reader = reader.filter(|reader| reader.row.kind == DemandKind::Refund);
        reader.is_some_and(|reader| match reader.clear_targets() {
            Ok(targets) => reader.row.payout_name.is_some() && !targets.is_empty(),
            Err(DemandFault::Undocumented(_)) => true,
            Err(_) => reader.row.payout_name.is_some(),
        })
    }

    fn moves_money(&self) -> bool {
        self.operation.kind == Kind::Money
    }

    fn is_json(&self) -> bool {
        self.operation.media == MediaType::Json
    }
}

/// Reads one body, or one item of a list in it.
struct DemandReader<'r, 'a> {
    row: &'static MoneyRow,
    reading: &'r BodyReading<'a>,
    spelling: AmountSpelling,
    /// What the names say.
    names: OnceCell<MoneyNames>,
    /// The items of the row's list.
    items: OnceCell<Result<Vec<MoneyItem<'a>>, DemandFault>>,
}

/// How amounts may be spelled.
#[derive(Clone, Copy)]
enum AmountSpelling {
    /// In a call: in no way that GatePay may read otherwise.
    Asked,
    /// In an answer: as GatePay prints them.
    Printed,
}

/// An item of a list.
struct MoneyItem<'a> {
    reading: BodyReading<'a>,
    names: MoneyNames,
}

/// Amounts by currency.
type Sums = BTreeMap<PartCurrency, ExactAmount>;

impl<'r, 'a> DemandReader<'r, 'a> {
    fn new(row: &'static MoneyRow, reading: &'r BodyReading<'a>) -> Self {
        Self {
            row,
            reading,
            spelling: AmountSpelling::Asked,
            names: OnceCell::new(),
            items: OnceCell::new(),
        }
    }

    fn read(&self) -> Result<MoneyDemand, DemandFault> {
        let row = self.row;
        self.clear()?;
        if let Some(field) = self.names().other_amount(row) {
            return Err(DemandFault::Undocumented(field));
        }
        let parts = self.parts(row.amounts)?;
        if parts.len() > MOST_PARTS {
            return Err(DemandFault::TooMany("currency"));
        }
        let parts = parts.into_iter();
        let parts = parts.map(|(currency, amount)| MoneyPart { currency, amount });
        let targets = self.targets()?;
        let disguised = row.payout_name.filter(|_| !targets.is_empty());
        Ok(MoneyDemand {
            kind: disguised.map_or(row.kind, |_| DemandKind::Payout),
            counted_as: disguised.unwrap_or(row.operation),
            direction: row.direction,
            parts: parts.collect(),
            targets,
            key: row.key.and_then(|key| self.documented_key(key)),
        })
    }

    fn names(&self) -> &MoneyNames {
        self.names
            .get_or_init(|| MoneyNames::of_call(self.row, self.reading))
    }

    /// Whether the body is one JSON object that all parsers read alike.
    fn is_clear(&self) -> bool {
        let is_clear = self.reading.has_one_reading() && self.reading.not_ascii().is_none();
        let has_any = self.reading.top().next().is_some();
        is_clear && has_any && !self.names().is_respelled
    }

    /// Refuses a body that parsers may read differently, or in which a field may name a target that no page describes.
    fn clear(&self) -> Result<(), DemandFault> {
        if !self.is_clear() {
            return Err(DemandFault::Ambiguous);
        }
        let undocumented = self.names().other_target;
        undocumented.map_or(Ok(()), |field| Err(DemandFault::Undocumented(field)))
    }

    /// The targets of a clear body.
    fn clear_targets(&self) -> Result<Vec<StatedTarget>, DemandFault> {
        self.clear()?;
        self.targets()
    }

    fn parts(&self, place: AmountPlace) -> Result<Sums, DemandFault> {
        match place {
            AmountPlace::Stated { amount, currency } => {
                let currency = PartCurrency::Stated(self.currency(currency)?);
                Ok(Sums::from([(currency, self.required_amount(amount)?)]))
            }
            AmountPlace::OfOrder => self.order_refund(),
            AmountPlace::Converted => self.converted_refund(),
            AmountPlace::Items {
                list,
                common_currency,
            } => self.sums(list, common_currency),
            AmountPlace::Cards => {
                let currency = PartCurrency::Stated(self.currency("currency")?);
                let amount = self.required_amount("amount")?;
                let total = match self.count("count")? {
                    None => amount,
                    Some(count) => amount.times(count).ok_or(DemandFault::TooMuch)?,
                };
                Ok(Sums::from([(currency, total)]))
            }
            AmountPlace::Exchanged => match self.text("type")?.as_deref() {
                Some("SELL") => self.parts(AmountPlace::Stated {
                    amount: "cryptoAmount",
                    currency: "cryptoCurrency",
                }),
                Some("BUY") => self.parts(AmountPlace::Stated {
                    amount: "fiatAmount",
                    currency: "fiatCurrency",
                }),
                _ => Err(DemandFault::Misshapen("type")),
            },
        }
    }

    fn order_refund(&self) -> Result<Sums, DemandFault> {
        // GatePay refunds the whole order then, whatever the amount says.
        match self.choice("refundAmountTypeFull")? {
            1 => return Err(DemandFault::WholeOrder),
            0 | 2 => {}
            _ => return Err(DemandFault::Misshapen("refundAmountTypeFull")),
        }
        let amount = self.required_amount("refundAmount")?;
        let order = self.required("prepayId")?;
        let order = LedgerKey::new(LedgerKeyKind::PrepayId, order);
        let order = order.ok_or(DemandFault::Misshapen("prepayId"))?;
        Ok(Sums::from([(PartCurrency::OfOrder(order), amount)]))
    }

    /// Both sides count if both are stated: no page says which one GatePay goes by.
    fn converted_refund(&self) -> Result<Sums, DemandFault> {
        let currency = PartCurrency::Stated(self.currency("refundOrderCurrency")?);
        let mut amount = self.required_amount("refundOrderAmount")?;
        if let Some(direct) = self.amount("refundAmount")? {
            amount = amount.max(direct);
        }
        let mut sums = Sums::from([(currency, amount)]);
        if let Some(paid) = self.amount("refundPayAmount")? {
            let currency = PartCurrency::Stated(self.currency("refundPayCurrency")?);
            let counted = sums.entry(currency).or_default();
            *counted = (*counted).max(paid);
        }
        Ok(sums)
    }

    fn sums(&self, list: &'static str, common_currency: bool) -> Result<Sums, DemandFault> {
        let has_common = common_currency && self.reading.has("currency");
        let common = has_common.then(|| self.currency("currency")).transpose()?;
        let mut sums = Sums::new();
        for item in self.items(list)? {
            let item = DemandReader {
                spelling: self.spelling,
                ..DemandReader::new(self.row, &item.reading)
            };
            let currency = match &common {
                None => item.currency("currency")?,
                Some(common) if !item.reading.has("currency") => common.clone(),
                Some(common) if item.currency("currency")? == *common => common.clone(),
                Some(_) => return Err(DemandFault::Misshapen("currency")),
            };
            let amount = item.required_amount("amount")?;
            let sum = sums.entry(PartCurrency::Stated(currency)).or_default();
            *sum = sum.plus(amount).ok_or(DemandFault::TooMuch)?;
        }
        Ok(sums)
    }

    fn targets(&self) -> Result<Vec<StatedTarget>, DemandFault> {
        let stated = |field, target| vec![StatedTarget::at(field, target)];
        let mut targets = match self.row.targets {
            TargetPlace::None => Vec::new(),
            TargetPlace::Refund => self.refund_targets()?,
            TargetPlace::User(field) => stated(field, MoneyTarget::User(self.id(field)?)),
            TargetPlace::Bank(field) => stated(field, MoneyTarget::Bank(self.id(field)?)),
            TargetPlace::Account(field) => stated(field, MoneyTarget::Account(self.id(field)?)),
            TargetPlace::Users => self.each_item(|item| {
                let user = item.id("user_id")?;
                Ok(MoneyTarget::User(user))
            })?,
            TargetPlace::Addresses => self.each_item(|item| item.address("chain", "address"))?,
        };
        targets.sort();
        targets.dedup_by(|next, first| next.target == first.target);
        Ok(targets)
    }

    /// A refund to the payer has none. One that states a target has it, whatever `refundStyle` says.
    fn refund_targets(&self) -> Result<Vec<StatedTarget>, DemandFault> {
        let style = self.choice("refundStyle")?;
        if style > 2 {
            return Err(DemandFault::Misshapen("refundStyle"));
        }
        let mut targets = Vec::new();
        if self.reading.has("refundAddress") {
            let target = self.address("refundChain", "refundAddress")?;
            targets.push(StatedTarget::at("refundAddress", target));
        }
        if self.reading.has("refundToGateUid") && self.required("refundToGateUid")? != "0" {
            let target = MoneyTarget::User(self.id("refundToGateUid")?);
            targets.push(StatedTarget::at("refundToGateUid", target));
        }
        if style == 2 && targets.is_empty() {
            return Err(DemandFault::Missing("refundAddress"));
        }
        Ok(targets)
    }

    fn each_item(
        &self,
        target: impl Fn(&DemandReader<'_, 'a>) -> Result<MoneyTarget, DemandFault>,
    ) -> Result<Vec<StatedTarget>, DemandFault> {
        let AmountPlace::Items { list, .. } = self.row.amounts else {
            return Err(DemandFault::UnknownOperation);
        };
        let items = self.items(list)?.iter().enumerate();
        let targets = items.map(|(index, item)| {
            if let Some(field) = item.names.other_target {
                return Err(DemandFault::Undocumented(field));
            }
            let target = target(&DemandReader::new(self.row, &item.reading))?;
            let entry = TargetEntry {
                field: list,
                index: Some(index),
            };
            Ok(StatedTarget { target, entry })
        });
        targets.collect()
    }

    /// The items of the row's list of objects, at least one.
    fn items(&self, list: &'static str) -> Result<&[MoneyItem<'a>], DemandFault> {
        let items = self.items.get_or_init(|| self.read_items(list));
        items.as_deref().map_err(|fault| *fault)
    }

    fn read_items(&self, list: &'static str) -> Result<Vec<MoneyItem<'a>>, DemandFault> {
        let mut values = self.reading.values(list);
        let (Some(BodyValue::Body(list_text)), None) = (values.next(), values.next()) else {
            return Err(DemandFault::Misshapen(list));
        };
        let items: Result<Vec<&RawValue>, _> = serde_json::from_str(list_text.as_str());
        let items = items.map_err(|_| DemandFault::Misshapen(list))?;
        match items.len() {
            0 => return Err(DemandFault::Missing(list)),
            1..=MOST_ITEMS => {}
            _ => return Err(DemandFault::TooMany(list)),
        }
        let items = items.into_iter().map(|item| {
            let reading = BodyReading::of_object(item.get())?;
            let names = MoneyNames::of_item(self.row, &reading);
            Some(MoneyItem { reading, names })
        });
        let items: Option<Vec<_>> = items.collect();
        let items = items.ok_or(DemandFault::Misshapen(list))?;
        if items.iter().any(|item| item.names.is_respelled) {
            return Err(DemandFault::Ambiguous);
        }
        Ok(items)
    }

    fn address(
        &self,
        chain: &'static str,
        address: &'static str,
    ) -> Result<MoneyTarget, DemandFault> {
        let memo = self.text("memo")?.unwrap_or_default();
        let target = MoneyTarget::address(&self.required(chain)?, &self.required(address)?, &memo);
        target.map_err(|part| {
            DemandFault::Misshapen(match part {
                AddressPart::Chain => chain,
                AddressPart::Address => address,
                AddressPart::Memo => "memo",
            })
        })
    }

    fn id(&self, field: &'static str) -> Result<String, DemandFault> {
        let text = self.required(field)?;
        MoneyTarget::id(&text).ok_or(DemandFault::Misshapen(field))
    }

    fn currency(&self, field: &'static str) -> Result<CurrencyCode, DemandFault> {
        let text = self.required(field)?;
        CurrencyCode::parse(&text).ok_or(DemandFault::Currency(field))
    }

    fn required_amount(&self, field: &'static str) -> Result<ExactAmount, DemandFault> {
        self.amount(field)?.ok_or(DemandFault::Missing(field))
    }

    /// An amount above zero. Clients send absent optional values as zero (schemas.md).
    fn amount(&self, field: &'static str) -> Result<Option<ExactAmount>, DemandFault> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        let is_number =
            |value: BodyValue<'_>| matches!(value, BodyValue::Body(_)) && value.number().is_some();
        let is_number = self.reading.values(field).any(is_number);
        let amount = match (self.spelling, is_number) {
            (AmountSpelling::Asked, true) => ExactAmount::parse_number(&text),
            (AmountSpelling::Asked, false) => ExactAmount::parse(&text),
            (AmountSpelling::Printed, true) => ExactAmount::parse_printed_number(&text),
            (AmountSpelling::Printed, false) => ExactAmount::parse_printed(&text),
        };
        let amount = amount.map_err(|fault| DemandFault::Amount(field, fault))?;
        Ok((amount != ExactAmount::ZERO).then_some(amount))
    }

    /// A whole number above zero, of at most six digits.
    fn count(&self, field: &'static str) -> Result<Option<u32>, DemandFault> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        let is_plain = text.len() <= 6
            && text.bytes().all(|digit| digit.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        let count: Option<u32> = text.parse().ok().filter(|_| is_plain);
        match count {
            Some(0) => Ok(None),
            Some(count) => Ok(Some(count)),
            None => Err(DemandFault::Misshapen(field)),
        }
    }

    /// A number that selects a form; 0 if the field is absent.
    fn choice(&self, field: &'static str) -> Result<u32, DemandFault> {
        Ok(self.count(field)?.unwrap_or(0))
    }

    fn required(&self, field: &'static str) -> Result<String, DemandFault> {
        self.text(field)?.ok_or(DemandFault::Missing(field))
    }

    /// The one value of a field; `None` if it is absent, an error if query and body differ or it is no text or number.
    fn text(&self, field: &'static str) -> Result<Option<String>, DemandFault> {
        if !self.reading.has(field) {
            return Ok(None);
        }
        let only = self.reading.only(field);
        only.map(|text| Some(text.into_owned()))
            .ok_or(DemandFault::Misshapen(field))
    }

    /// The key, if its parts are spelled as documented.
    fn documented_key(&self, key: SpendKey) -> Option<String> {
        let number = self.documented_number(key.field, key.longest)?;
        match key.order {
            None => Some(number),
            Some(order) => {
                let order = self.documented_number(order, LONGEST_ORDER)?;
                Some(format!("{order} {number}"))
            }
        }
    }

    /// A string of letters, digits, `-` and `_` in a member of exactly this name.
    fn documented_number(&self, field: &str, longest: usize) -> Option<String> {
        let mut members = self
            .reading
            .top()
            .filter(|(name, _)| name.eq_ignore_ascii_case(field.as_bytes()));
        let (name, value): (&[u8], JsonText<'_>) = members.next()?;
        let is_only = members.next().is_none() && self.reading.values(field).count() == 1;
        let key = value.text()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_documented = is_only
            && name == field.as_bytes()
            && (1..=longest).contains(&key.len())
            && key.bytes().all(is_plain);
        is_documented.then(|| key.into_owned())
    }
}

impl DemandFault {
    /// Whether the fault is that of an amount or a currency.
    pub fn is_of_amount(self) -> bool {
        match self {
            Self::Amount(..) | Self::Currency(_) | Self::WholeOrder | Self::TooMuch => true,
            Self::Undocumented(field) | Self::Missing(field) | Self::Misshapen(field) => {
                documented::is_of_amount(field)
            }
            Self::UnknownOperation
            | Self::Ambiguous
            | Self::Unknown(_)
            | Self::TooMany(_)
            | Self::NotRead => false,
        }
    }
}

impl FieldName {
    fn of(name: &[u8]) -> Self {
        let mut text = ArrayString::new();
        for letter in name.escape_ascii() {
            if text.try_push(char::from(letter)).is_err() {
                break;
            }
        }
        Self(text)
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DemandFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOperation => {
                f.write_str("it is not known where this operation states its amount and its target")
            }
            Self::Ambiguous => f.write_str("body is not one JSON object that is read in one way"),
            Self::Undocumented(field) => write!(
                f,
                "body has a field like {field}, which no page describes for this call"
            ),
            Self::Unknown(field) => write!(
                f,
                "body has the field {field}, which no page describes for this call"
            ),
            Self::Missing(field) => write!(f, "{field} is missing"),
            Self::Misshapen(field) => write!(f, "{field} is not of the documented form"),
            Self::Amount(field, fault) => write!(f, "{field} {fault}"),
            Self::Currency(field) => write!(f, "{field} is not a currency"),
            Self::WholeOrder => f.write_str(
                "refundAmountTypeFull asks for the whole order; state the amount and 2 instead",
            ),
            Self::TooMuch => f.write_str("the amounts add up to 10^20 or more"),
            Self::NotRead => f.write_str(
                "its targets were not read, since no list bound it when it came; send it again",
            ),
            Self::TooMany(list) => write!(f, "{list} has more entries than can be counted"),
        }
    }
}

#[cfg(test)]
mod tests;
