//! What may happen, in whatever order.

use std::fmt;

use proptest::prelude::*;

/// A program of steps, and how the first process is set up.
#[derive(Clone)]
pub(super) struct Scenario {
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
}

/// How all processes of a scenario are configured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Setup {
    /// The first process has a `state_dir`.
    pub(super) state_dir: bool,
    /// There is an audit journal, in files of one record each.
    pub(super) journal: bool,
    /// GatePay is asked what became of a call whose answer was lost.
    pub(super) look_ups: bool,
    pub(super) deadline: Deadline,
}

/// How long GatePay's answers are waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Deadline {
    /// Slow answers come in time.
    #[default]
    Long,
    /// They come too late.
    Short,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A call under a key of its own, signed for so many milliseconds from now.
    Call(Sort, Merchant, i64, Option<Mishap>),
    /// The bytes of an earlier call, once more.
    Again(Back),
    /// The signature of an earlier call, on another path.
    Elsewhere(Back),
    /// The stamp of an earlier call, in a request with something wrong.
    Flawed(Back, Flaw),
    /// The body of an earlier call, signed anew, whatever was answered.
    Anew(Back),
    /// What the answer to an earlier call told its caller to do.
    Obey(Back),
    /// A new call, and copies of its bytes at the same time.
    AtOnce(Sort, Merchant, u8),
    /// A new call whose last byte is held back until a copy of it was answered and so many milliseconds have passed.
    Overtaken(Sort, Merchant, u32),
    /// So many milliseconds pass.
    Pass(u32),
    /// Wall time is stepped by so many milliseconds.
    WallClock(i64),
    /// What every process does once a second.
    Housekeeping,
    /// The state folder is copied as it lies there.
    CopyState,
    /// The process ends, and another begins.
    Restart(Restart),
    /// The audit journal cannot be written any more.
    JournalBreaks,
    /// It can be written again.
    JournalMends,
}

/// Which earlier call: 0 is the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Back(pub(super) u8);

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    CreateOrder,
    CloseOrder,
    Refund,
    /// Of an order that is not there.
    RefundOfNothing,
    Payout,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merchant {
    /// Has a rate that is never spent.
    Acme,
    /// Has one call a second.
    Globex,
}

/// What goes wrong between the proxy and GatePay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    /// The connection is reset before the body is read.
    LostUnread,
    /// The connection is reset before the call is executed.
    LostBefore,
    /// The connection is reset after it was.
    LostAfter,
    /// The connection is reset within the answer.
    CutAt(u8),
    /// Half of the answer's body comes.
    Halved,
    /// The answer is late.
    Slow,
    /// The call is executed, and something else is answered.
    ExecutedBut(u8),
    /// The call is not executed, and something that is no answer of GatePay's is answered.
    Instead(u8),
    /// GatePay refuses the institution's signature.
    RefusesSignature,
    /// GatePay says that it does not know.
    SystemError,
}

/// How one process ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Restart {
    pub(super) end: End,
    /// A call that is at GatePay at that moment.
    pub(super) in_flight: Option<Sort>,
    pub(super) state: StateMove,
    pub(super) change: Change,
}

/// What is other for the next process than it was for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It finds nobody where GatePay should be.
    GatePayIsDown,
    /// Shops are suspended.
    Suspended,
    /// Shops may only read.
    ReadOnly,
    /// Shops may call from another address only.
    OtherAddress,
    /// It does not know the shops.
    Unknown,
}

/// How a request with the stamp of an earlier call differs from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Its body is another.
    Body,
    /// Its signature is another.
    Signature,
    /// Its signature has no digits.
    NoDigits,
    /// Its media type is another.
    MediaType,
    /// It names another account.
    OnBehalfOf,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is killed.
    Crash,
    /// It finishes what it has, and hands over.
    Drain,
    /// It is told to end at once while it drains.
    CutShort,
    /// It hands over, and finishes while the next one serves.
    Overlap,
}

/// What becomes of the state folder between two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateMove {
    /// It stays as it is; so does its absence.
    Stays,
    /// The next process has none.
    Away,
    /// The next process has a new one.
    Fresh,
    /// It gets another name.
    Moved,
    /// The next process has a copy of it.
    Copied,
    /// An earlier copy is put in its place.
    Restored(Back),
    /// All that is in it is removed.
    Emptied,
}

/// How far ahead of the clock a stamp may lie: for so long a process that knows nothing refuses.
pub(super) const FUTURE_MS: u32 = 10_000;

pub(super) fn scenarios() -> impl Strategy<Value = Scenario> {
    let rarely = |one_in: u32| prop::bool::weighted(1.0 / f64::from(one_in));
    let setup = (
        prop::bool::weighted(0.85),
        rarely(8),
        rarely(10),
        prop_oneof![9 => Just(Deadline::Long), 1 => Just(Deadline::Short)],
    );
    let setup = setup.prop_map(|(state_dir, journal, look_ups, deadline)| Setup {
        state_dir,
        journal,
        look_ups,
        deadline,
    });
    let steps = prop_oneof![
        20 => step().prop_map(|step| vec![step]),
        1 => spent_before_a_copy_returns(),
    ];
    let steps = prop::collection::vec(steps, 1..=14);
    (setup, steps).prop_map(|(setup, steps)| Scenario {
        setup,
        steps: steps.concat(),
    })
}

/// What single steps seldom come to: a call is executed after a copy was made, and sent again when that copy is back.
fn spent_before_a_copy_returns() -> impl Strategy<Value = Vec<Step>> {
    let copies = Restart {
        end: End::Drain,
        in_flight: None,
        state: StateMove::Stays,
        change: Change::Nothing,
    };
    let call = (sort(), shop()).prop_map(|(sort, shop)| Step::Call(sort, shop, 0, None));
    (call, restart(), back()).prop_map(move |(call, returns, copy)| {
        let returns = Restart {
            state: StateMove::Restored(copy),
            in_flight: None,
            ..returns
        };
        let [copies, returns] = [copies, returns].map(Step::Restart);
        vec![copies, call, returns, Step::Again(Back(0))]
    })
}

fn step() -> impl Strategy<Value = Step> {
    let call = (sort(), shop(), skew(), mishap());
    let call = call.prop_map(|(sort, shop, skew, mishap)| Step::Call(sort, shop, skew, mishap));
    prop_oneof![
        8 => call,
        7 => back().prop_map(Step::Again),
        1 => back().prop_map(Step::Elsewhere),
        1 => (back(), flaw()).prop_map(|(back, flaw)| Step::Flawed(back, flaw)),
        1 => back().prop_map(Step::Anew),
        4 => back().prop_map(Step::Obey),
        1 => (sort(), shop(), 2..=4_u8).prop_map(|(sort, shop, copies)| Step::AtOnce(sort, shop, copies)),
        1 => (sort(), shop(), times()).prop_map(|(sort, shop, wait)| Step::Overtaken(sort, shop, wait)),
        4 => times().prop_map(Step::Pass),
        2 => (times(), any::<bool>()).prop_map(|(by, back)| {
            Step::WallClock(if back { -i64::from(by) } else { i64::from(by) })
        }),
        1 => Just(Step::Housekeeping),
        1 => Just(Step::CopyState),
        6 => restart().prop_map(Step::Restart),
        2 => Just(Step::JournalBreaks),
        1 => Just(Step::JournalMends),
    ]
}

fn back() -> impl Strategy<Value = Back> {
    (0..6_u8).prop_map(Back)
}

fn sort() -> impl Strategy<Value = Sort> {
    prop_oneof![
        6 => Just(Sort::Refund),
        3 => Just(Sort::Payout),
        3 => Just(Sort::CreateOrder),
        2 => Just(Sort::CloseOrder),
        1 => Just(Sort::RefundOfNothing),
    ]
}

fn shop() -> impl Strategy<Value = Merchant> {
    prop_oneof![3 => Just(Merchant::Acme), 2 => Just(Merchant::Globex)]
}

fn skew() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => Just(0),
        2 => Just(9_000),
        1 => Just(-60_000),
        1 => Just(-299_000),
        1 => Just(-301_000),
    ]
}

/// Around every time that means something: the guard, and how long a stamp is fresh.
fn times() -> impl Strategy<Value = u32> {
    prop_oneof![
        1 => Just(1),
        1 => Just(1_000),
        1 => Just(3_000),
        1 => Just(9_999),
        4 => Just(FUTURE_MS + 1),
        1 => Just(60_000),
        1 => Just(290_000),
        1 => Just(311_000),
        1 => Just(700_000),
    ]
}

fn mishap() -> impl Strategy<Value = Option<Mishap>> {
    let which = prop_oneof![
        1 => Just(Mishap::LostUnread),
        1 => Just(Mishap::LostBefore),
        6 => Just(Mishap::LostAfter),
        1 => (0..200_u8).prop_map(Mishap::CutAt),
        1 => Just(Mishap::Halved),
        1 => Just(Mishap::Slow),
        4 => (0..64_u8).prop_map(Mishap::ExecutedBut),
        3 => (0..64_u8).prop_map(Mishap::Instead),
        1 => Just(Mishap::RefusesSignature),
        1 => Just(Mishap::SystemError),
    ];
    prop::option::weighted(0.3, which)
}

fn restart() -> impl Strategy<Value = Restart> {
    let end = prop_oneof![
        4 => Just(End::Crash),
        3 => Just(End::Drain),
        1 => Just(End::CutShort),
        1 => Just(End::Overlap),
    ];
    let state = prop_oneof![
        8 => Just(StateMove::Stays),
        2 => Just(StateMove::Away),
        2 => Just(StateMove::Fresh),
        1 => Just(StateMove::Moved),
        1 => Just(StateMove::Copied),
        2 => back().prop_map(StateMove::Restored),
        1 => Just(StateMove::Emptied),
    ];
    let in_flight = prop::option::weighted(0.25, sort());
    (end, in_flight, state, change()).prop_map(|(end, in_flight, state, change)| Restart {
        end,
        in_flight,
        state,
        change,
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        30 => Just(Change::Nothing),
        4 => Just(Change::GatePayIsDown),
        1 => Just(Change::Suspended),
        1 => Just(Change::ReadOnly),
        1 => Just(Change::OtherAddress),
        1 => Just(Change::Unknown),
    ]
}

fn flaw() -> impl Strategy<Value = Flaw> {
    prop_oneof![
        Just(Flaw::Body),
        Just(Flaw::Signature),
        Just(Flaw::NoDigits),
        Just(Flaw::MediaType),
        Just(Flaw::OnBehalfOf),
    ]
}

/// A step a line.
impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:>3}. {step:?}")?;
        }
        Ok(())
    }
}
