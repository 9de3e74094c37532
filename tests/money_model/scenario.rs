//! The steps of a scenario, and the strategies that generate them.

use std::fmt;

use proptest::prelude::*;

/// A sequence of steps, and the setup of the processes.
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
    /// The proxy queries GatePay for the outcome of a call after a lost answer.
    pub(super) look_ups: bool,
    pub(super) deadline: Deadline,
}

/// The upstream deadline: how long the proxy waits for GatePay's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Deadline {
    /// Longer than a slow answer.
    #[default]
    Long,
    /// Shorter than a slow answer.
    Short,
}

/// One step of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A call under a key of its own, signed with this skew from the current time, in milliseconds.
    Call(Sort, Merchant, i64, Option<Mishap>),
    /// The bytes of an earlier call, sent again.
    Again(Back),
    /// The signature of an earlier call, on another path.
    Elsewhere(Back),
    /// The stamp of an earlier call, in a request with a flaw.
    Flawed(Back, Flaw),
    /// The body of an earlier call, signed anew whatever the answer was.
    Anew(Back),
    /// The caller follows the answer to an earlier call.
    Obey(Back),
    /// A new call, and copies of its bytes at the same time.
    AtOnce(Sort, Merchant, u8),
    /// A new call whose last byte is held back until a copy of it was answered and these milliseconds have passed.
    Overtaken(Sort, Merchant, u32),
    /// These milliseconds pass.
    Pass(u32),
    /// The wall clock is stepped by these milliseconds.
    WallClock(i64),
    /// The control thread's work of each second.
    Housekeeping,
    /// The state folder is copied while the process runs.
    CopyState,
    /// The process ends, and another begins.
    Restart(Restart),
    /// The audit journal becomes unwritable.
    JournalBreaks,
    /// The audit journal becomes writable again.
    JournalMends,
}

/// The index of an earlier call, counted back: 0 is the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Back(pub(super) u8);

/// The operation called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    CreateOrder,
    CloseOrder,
    Refund,
    /// A refund of an order that does not exist.
    RefundOfNothing,
    Payout,
}

/// The calling tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merchant {
    /// Has a rate limit that the scenario never reaches.
    Acme,
    /// Has a rate limit of one call a second.
    Globex,
}

/// A fault between the proxy and GatePay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    /// The connection is reset before GatePay reads the body.
    LostUnread,
    /// The connection is reset before GatePay executes the call.
    LostBefore,
    /// The connection is reset after GatePay has executed the call.
    LostAfter,
    /// The connection is reset within the answer, after this number of bytes.
    CutAt(u8),
    /// Half of the answer's body arrives.
    Halved,
    /// The answer is late.
    Slow,
    /// GatePay executes the call, and the proxy gets an unclear answer.
    ExecutedBut(u8),
    /// GatePay does not execute the call, and the proxy gets an answer that is not GatePay's.
    Instead(u8),
    /// GatePay refuses the institution's signature.
    RefusesSignature,
    /// GatePay answers with its system error.
    SystemError,
}

/// How one process ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Restart {
    pub(super) end: End,
    /// A call in flight at GatePay when the process ends.
    pub(super) in_flight: Option<Sort>,
    pub(super) state: StateMove,
    pub(super) change: Change,
}

/// How the configuration or the upstream of the next process differs from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The proxy finds no listener at GatePay's address.
    GatePayIsDown,
    /// The shops are suspended.
    Suspended,
    /// The shops may only read.
    ReadOnly,
    /// The shops may call from another address only.
    OtherAddress,
    /// The process does not know the shops.
    Unknown,
}

/// How a request with the stamp of an earlier call differs from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Another body.
    Body,
    /// Another signature.
    Signature,
    /// A signature without digits.
    NoDigits,
    /// Another media type.
    MediaType,
    /// A header that names another account.
    OnBehalfOf,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process is killed.
    Crash,
    /// The process finishes its calls in flight and hands over.
    Drain,
    /// The process is told to end at once while it drains.
    CutShort,
    /// The process hands over, and finishes its calls in flight while the next process serves.
    Overlap,
}

/// How the state folder changes between two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateMove {
    /// The folder stays as it is; if there is none, there is still none.
    Stays,
    /// The next process has no state folder.
    Away,
    /// The next process has a new folder.
    Fresh,
    /// The folder is renamed.
    Moved,
    /// The next process has a copy of the folder.
    Copied,
    /// An earlier copy replaces the folder.
    Restored(Back),
    /// The folder's contents are removed.
    Emptied,
}

/// How far ahead of the clock a stamp may lie, in milliseconds. A process without earlier state refuses for this long.
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

/// A sequence that single steps seldom produce. A call is executed after a copy of the state folder was made, and is
/// sent again when that copy is restored.
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

/// Values around each significant time: the start-up guard, and the window in which a stamp is fresh.
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

/// One step per line.
impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:>3}. {step:?}")?;
        }
        Ok(())
    }
}
