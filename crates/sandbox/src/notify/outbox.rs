//! The outbox: notifications that wait for an attempt or an acknowledgment, as a state machine without a clock.
//!
//! Notifications about one object are first sent in the order of the object's statuses; repetitions are not ordered.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::delivery_schedule::DelaySteps;
use gatepay_core::{Credential, Stamp, sign};

use crate::config::RepetitionStamp;
use crate::notify::body::{BodyForm, ClientIdMember, body};
use crate::notify::fault::{SendingFault, SendingFaults};
use crate::notify::sent::{CallbackAnswer, SentLog, SentNotification};
use crate::rules::news::BusinessNews;

/// The `bizType` of [`SendingFault::UnknownKind`].
const UNKNOWN_KIND: &str = "PAY_UNHEARD_OF";

/// Notifications that wait, and the log of attempts.
pub(crate) struct Outbox {
    credential: Credential,
    institution_url: String,
    schedule: DelaySteps,
    speed: NonZeroU32,
    repetition_stamp: RepetitionStamp,
    pub(crate) faults: SendingFaults,
    pub(crate) log: SentLog,
    /// By number, so that earlier notifications come first.
    waiting: BTreeMap<u64, WaitingNotification>,
    /// The number of notifications made.
    made: u64,
    /// The highest number of a notification that has had its first attempt.
    newest_attempted: u64,
}

struct WaitingNotification {
    /// The URL of the object or of the owner; `None` is the institution's at the time of each attempt.
    own_url: Option<String>,
    body: Bytes,
    /// The object, if the first attempt waits for those of earlier notifications about it.
    ordered_by: Option<String>,
    /// Whether the first attempt waits for the one of a later notification.
    waits_for_later: bool,
    is_forged: bool,
    due_ms: u64,
    is_under_way: bool,
    /// The number of attempts that have ended without an acknowledgment.
    failed_attempts: u32,
    /// Timestamp and nonce of the first attempt.
    stamp: Option<(String, String)>,
}

/// An attempt to make.
#[derive(Debug, Clone)]
pub(crate) struct NotificationAttempt {
    pub(crate) id: u64,
    pub(crate) at_ms: u64,
    pub(crate) url: String,
    /// Whether `url` is not the institution's.
    pub(crate) has_own_url: bool,
    pub(crate) timestamp: String,
    pub(crate) nonce: String,
    pub(crate) signature: String,
    pub(crate) body: Bytes,
}

impl Outbox {
    pub(crate) fn new(
        credential: Credential,
        institution_url: String,
        schedule: DelaySteps,
        speed: NonZeroU32,
        repetition_stamp: RepetitionStamp,
        record: usize,
    ) -> Self {
        Self {
            credential,
            institution_url,
            schedule,
            speed,
            repetition_stamp,
            faults: SendingFaults::default(),
            log: SentLog::new(record),
            waiting: BTreeMap::new(),
            made: 0,
            newest_attempted: 0,
        }
    }

    /// Signs from now on with this credential; bodies that wait keep their client id.
    pub(crate) fn sign_with(&mut self, credential: Credential) {
        self.credential = credential;
    }

    /// Makes one notification of each status of the news.
    pub(crate) fn announce(&mut self, news: &BusinessNews, now: u64) {
        let mut statuses = news.statuses.clone();
        if statuses.len() > 1 && self.faults.strike_order(news.content.kind()) {
            statuses.reverse();
        }
        for status in statuses {
            let fault = self.faults.strike(news.content.kind());
            self.add_status(news, status, fault.as_ref(), now);
        }
    }

    fn add_status(
        &mut self,
        news: &BusinessNews,
        status: &str,
        fault: Option<&SendingFault>,
        now: u64,
    ) {
        let mut form = BodyForm::default();
        match fault {
            Some(SendingFault::WithoutClientId) => form.client_id = ClientIdMember::Absent,
            Some(SendingFault::CamelClientId) => form.client_id = ClientIdMember::Camel,
            Some(SendingFault::DataAsObject) => form.has_plain_data = true,
            _ => {}
        }
        let kind = (fault == Some(&SendingFault::UnknownKind)).then_some(UNKNOWN_KIND);
        let status = match fault {
            Some(SendingFault::Status(other)) => other,
            _ => status,
        };
        let client_id = self.credential.client_id.as_str();
        let mut body = body(news, status, kind, client_id, form);
        if fault == Some(&SendingFault::NotJson) {
            body.truncate(body.len() / 2);
        }
        let own_url = news.callback_url.clone();
        let due_ms = news.at_ms.unwrap_or(now);
        let mut made = WaitingNotification {
            ordered_by: Some(news.object.clone()),
            is_forged: fault == Some(&SendingFault::WrongSignature),
            ..WaitingNotification::new(own_url, body, due_ms)
        };
        match fault {
            Some(SendingFault::Late(by)) => {
                made.due_ms = due_ms.saturating_add(millis(*by));
                made.ordered_by = None;
            }
            Some(SendingFault::OutOfOrder) => {
                made.waits_for_later = true;
                made.ordered_by = None;
            }
            Some(SendingFault::Twice) => {
                self.add_by_hand(made.own_url.clone(), made.body.clone(), made.due_ms);
            }
            _ => {}
        }
        self.add(made);
    }

    /// Sends a body as it is, and gives the notification's number.
    pub(crate) fn add_by_hand(&mut self, own_url: Option<String>, body: Bytes, now: u64) -> u64 {
        self.add(WaitingNotification::new(own_url, body, now))
    }

    /// Sends the body of an earlier notification again, as a new notification.
    pub(crate) fn add_again(&mut self, id: u64, now: u64) -> Option<u64> {
        let waiting = self.waiting.get(&id);
        let waiting = waiting.map(|one| (one.own_url.clone(), one.body.clone()));
        let (own_url, body) = waiting.or_else(|| {
            let mut sent = self.log.all().rev();
            let sent = sent.find(|sent| sent.id == id)?;
            let own_url = sent.has_own_url.then(|| sent.url.clone());
            Some((own_url, sent.body.clone()))
        })?;
        Some(self.add_by_hand(own_url, body, now))
    }

    /// Changes the institution's URL, for repetitions too.
    pub(crate) fn move_to(&mut self, institution_url: String) {
        self.institution_url = institution_url;
    }

    /// The number of notifications that are neither acknowledged nor given up.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn add(&mut self, notification: WaitingNotification) -> u64 {
        self.made += 1;
        self.waiting.insert(self.made, notification);
        self.made
    }

    /// When the next attempt is due; `None` if none is.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let idle = self.waiting.iter().filter(|(_, one)| !one.is_under_way);
        idle.filter(|(id, one)| !self.is_held(**id, one))
            .map(|(_, one)| one.due_ms)
            .min()
    }

    /// The attempts that are due. Each is under way until it is finished.
    pub(crate) fn take_due(&mut self, now: u64) -> Vec<NotificationAttempt> {
        let is_due = |one: &WaitingNotification| one.due_ms <= now && !one.is_under_way;
        let mut due = Vec::new();
        for (id, one) in &self.waiting {
            if is_due(one) && !self.is_held(*id, one) {
                due.push(*id);
            }
        }
        due.into_iter().map(|id| self.begin(id, now)).collect()
    }

    /// Whether a notification's first attempt waits for that of another notification.
    fn is_held(&self, id: u64, one: &WaitingNotification) -> bool {
        if one.failed_attempts > 0 {
            return false;
        }
        let is_before = |other: &WaitingNotification| {
            other.failed_attempts == 0 && other.ordered_by == one.ordered_by
        };
        (one.waits_for_later && self.newest_attempted < id)
            || (one.ordered_by.is_some()
                && self.waiting.range(..id).any(|(_, other)| is_before(other)))
    }

    fn begin(&mut self, id: u64, now: u64) -> NotificationAttempt {
        let waiting = self.waiting.get_mut(&id);
        let waiting = waiting.expect("the notification was just found");
        waiting.is_under_way = true;
        let (timestamp, nonce) = match (&waiting.stamp, self.repetition_stamp) {
            (Some(first), RepetitionStamp::Same) => first.clone(),
            _ => (now.to_string(), fresh_nonce()),
        };
        let signature = signature(&self.credential, &timestamp, &nonce, waiting);
        waiting.stamp = Some((timestamp.clone(), nonce.clone()));
        NotificationAttempt {
            id,
            at_ms: now,
            url: waiting
                .own_url
                .as_ref()
                .unwrap_or(&self.institution_url)
                .clone(),
            has_own_url: waiting.own_url.is_some(),
            timestamp,
            nonce,
            signature,
            body: waiting.body.clone(),
        }
    }

    /// Ends an attempt: logs it, and schedules the next one if it failed.
    pub(crate) fn finish(
        &mut self,
        attempt: NotificationAttempt,
        result: Result<CallbackAnswer, String>,
        now: u64,
    ) {
        let Some(mut waiting) = self.waiting.remove(&attempt.id) else {
            return;
        };
        self.newest_attempted = self.newest_attempted.max(attempt.id);
        let number = waiting.failed_attempts + 1;
        let (answer, error) = match result {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        let acknowledged = answer.as_ref().is_some_and(CallbackAnswer::acknowledges);
        let delay = self.schedule.delay(number).filter(|_| !acknowledged);
        let next_ms = delay.map(|delay| now.saturating_add(millis(delay / self.speed.get())));
        if let Some(due_ms) = next_ms {
            waiting.due_ms = due_ms;
            waiting.is_under_way = false;
            waiting.failed_attempts = number;
            self.waiting.insert(attempt.id, waiting);
        }
        self.log.push(SentNotification {
            id: attempt.id,
            attempt: number,
            at_ms: attempt.at_ms,
            url: attempt.url,
            has_own_url: attempt.has_own_url,
            timestamp: attempt.timestamp,
            nonce: attempt.nonce,
            signature: attempt.signature,
            body: attempt.body,
            answer,
            error,
            acknowledged,
            next_ms,
        });
    }
}

impl WaitingNotification {
    fn new(own_url: Option<String>, body: Bytes, due_ms: u64) -> Self {
        Self {
            own_url,
            body,
            ordered_by: None,
            waits_for_later: false,
            is_forged: false,
            due_ms,
            is_under_way: false,
            failed_attempts: 0,
            stamp: None,
        }
    }
}

fn signature(
    credential: &Credential,
    timestamp: &str,
    nonce: &str,
    waiting: &WaitingNotification,
) -> String {
    let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes());
    // A test's clock may stand at a time that no stamp has: then the attempt has no signature.
    let mut signature = stamp.map_or_else(
        |_| String::new(),
        |stamp| sign(&credential.key, &stamp, &waiting.body).to_string(),
    );
    if waiting.is_forged {
        let last = if signature.ends_with('0') { '1' } else { '0' };
        signature.pop();
        signature.push(last);
    }
    signature
}

/// 32 letters and digits.
fn fresh_nonce() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
