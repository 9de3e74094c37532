//! How one process of a scenario ends and the next begins, and how their folders change in between.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gatepay_core::SigningKey;
use gatepay_proxy::start_error::StartError;
use gatepay_tenancy::settings::{AuditSettings, Settings};
use tokio::time::{sleep, timeout};

use super::mishap::{SHORT_DEADLINE, SLOW};
use super::run::Run;
use super::scenario::{
    Back, Change, Deadline, End, Merchant, Mishap, Restart, Setup, Sort, StateMove,
};
use crate::support::*;

/// How long the proxy may query GatePay after a lost answer, where look-ups are on: enough for one query, half a second
/// after the loss.
const LOOK_UP: Duration = Duration::from_millis(600);

impl Run<'_> {
    pub(super) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a process serves")
    }

    pub(super) async fn start(&mut self, change: Change) {
        let began = Instant::now();
        loop {
            match self.plan(change).try_start() {
                Ok(proxy) => {
                    self.proxy = Some(proxy);
                    return self.move_mark();
                }
                // A child process that another test starts holds the lock for a moment: it inherits all files of this
                // process.
                Err(StartError::State(error)) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(began.elapsed() < PATIENCE, "{error}");
                    sleep(Duration::from_millis(2)).await;
                }
                // The process reports a fault in its folders and serves no caller.
                Err(error) => return self.tally.add("start", error.to_string()),
            }
        }
    }

    fn plan(&self, change: Change) -> Plan {
        let (state, setup) = (self.state.clone(), self.setup);
        let audit = setup.journal.then(|| self.journal().0);
        self.world.proxy(change, move |settings| {
            set_up(settings, setup, state, audit);
        })
    }

    pub(super) async fn restart(&mut self, restart: Restart) {
        if let Some(sort) = restart.in_flight {
            self.hold_in_flight(sort).await;
        }
        self.connection = None;
        let overlaps = restart.end == End::Overlap && self.state.is_some();
        if overlaps {
            self.overlap().await;
        } else {
            let proxy = self.proxy.take().expect("a process serves");
            match restart.end {
                End::Crash => proxy.crash().await,
                End::CutShort => proxy.end_at_once().await,
                End::Drain | End::Overlap => drop(proxy.stop().await),
            }
            self.settle().await;
            self.copy_state();
            self.move_state(restart.state);
            self.correct_clock(restart.state);
        }
        self.start(restart.change).await;
    }

    /// Without the earlier processes' watermark a process cannot know that their clock was ahead. No promise holds
    /// then, so the clock is stepped forward.
    fn correct_clock(&self, state: StateMove) {
        let carried = match state {
            StateMove::Stays | StateMove::Moved | StateMove::Copied => self.state.is_some(),
            StateMove::Away | StateMove::Fresh | StateMove::Restored(_) | StateMove::Emptied => {
                false
            }
        };
        let behind = self.latest_ms.saturating_sub(self.world.clock().unix_ms());
        if !carried && behind > 0 {
            let behind = i64::try_from(behind).expect("a short time");
            self.world.clock().step(behind);
        }
    }

    /// Sends a call with a slow answer, and waits until GatePay has received the call or the proxy has answered.
    async fn hold_in_flight(&mut self, sort: Sort) {
        let call = self.new_call(sort, Merchant::Acme, 0);
        self.suffer(sort, Some(Mishap::Slow));
        let request = self.calls[call].call.request(self.world.clock());
        self.groups += 1;
        let delivery = self.sent(call, false);
        let before = self.world.received();
        let address = self.proxy().address();
        let calling = tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.try_send(request).await.ok()
        });
        until("the call is at GatePay, or answered", || {
            self.world.received() > before || calling.is_finished()
        })
        .await;
        self.in_flight.push((delivery, calling));
    }

    /// The process hands over its state folder and finishes its calls in flight.
    async fn overlap(&mut self) {
        let proxy = self.proxy.take().expect("a process serves");
        let folder = self.state.clone().expect("it has a state folder");
        proxy.leave();
        until("it lets go of its folder", || is_free(&folder)).await;
        self.leaving.push(tokio::spawn(async move {
            proxy.stop().await;
        }));
    }

    /// Waits for the answers of the calls in flight.
    pub(super) async fn settle(&mut self) {
        for (delivery, calling) in std::mem::take(&mut self.in_flight) {
            let answer = timeout(PATIENCE, calling).await.expect("an answer");
            self.answered(delivery, answer.expect("the caller did not panic"));
        }
    }

    pub(super) async fn end(&mut self) {
        self.connection = None;
        if let Some(proxy) = self.proxy.take() {
            proxy.crash().await;
        }
        for leaving in std::mem::take(&mut self.leaving) {
            leaving.await.expect("it ended in order");
        }
        self.settle().await;
    }

    fn new_folder(&mut self) -> PathBuf {
        self.folders += 1;
        self.folder.path().join(format!("state-{}", self.folders))
    }

    pub(super) fn copy_state(&mut self) {
        if let Some(state) = self.state.clone().filter(|state| state.exists()) {
            let copy = self.new_folder();
            copy_folder(&state, &copy);
            self.copies.push(copy);
        }
    }

    fn move_state(&mut self, by: StateMove) {
        match (by, self.state.clone()) {
            (StateMove::Stays, _)
            | (StateMove::Moved | StateMove::Copied | StateMove::Emptied, None) => {}
            (StateMove::Away, _) => self.state = None,
            (StateMove::Fresh, _) => self.state = Some(self.new_folder()),
            (StateMove::Restored(Back(back)), state) => {
                let count = self.copies.len();
                if count > 0 {
                    let copy = self.copies[count - 1 - usize::from(back) % count].clone();
                    let place = state.unwrap_or_else(|| self.new_folder());
                    let _absent = fs::remove_dir_all(&place);
                    copy_folder(&copy, &place);
                    self.state = Some(place);
                }
            }
            (StateMove::Moved, Some(state)) => {
                let place = self.new_folder();
                fs::rename(&state, &place).expect("it is there");
                self.state = Some(place);
            }
            (StateMove::Copied, Some(state)) => {
                let place = self.new_folder();
                copy_folder(&state, &place);
                self.state = Some(place);
            }
            (StateMove::Emptied, Some(state)) => {
                fs::remove_dir_all(&state).expect("it is there");
                fs::create_dir(&state).expect("it is gone");
            }
        }
    }

    /// Every journal record begins a file, so the journal cannot be written while its folder is missing.
    pub(super) fn break_journal(&self) {
        let (there, away) = self.journal();
        if there.exists() && !away.exists() {
            fs::rename(there, away).expect("it is there");
        }
    }

    pub(super) async fn mend_journal(&self) {
        let (there, away) = self.journal();
        // A process that began meanwhile has made another folder.
        if away.exists() && !there.exists() {
            fs::rename(away, there).expect("it was there");
            let journal = self.proxy().app().journal.as_ref();
            let journal = journal.expect("there is a journal");
            until("the journal is written again", || journal.is_available()).await;
        }
    }

    fn journal(&self) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        (folder.join("audit"), folder.join("audit-away"))
    }
}

fn set_up(settings: &mut Settings, setup: Setup, state: Option<PathBuf>, audit: Option<PathBuf>) {
    settings.state_dir = state;
    settings.audit = audit.map(|dir| AuditSettings {
        dir,
        key: SigningKey::new(&secret("fake-audit-key-0123456789abcdef")),
        file_bytes: 1,
        file_age: Duration::from_hours(24 * 365),
    });
    if setup.look_ups {
        settings.upstream.resolve = LOOK_UP;
    }
    settings.upstream.deadline = match setup.deadline {
        Deadline::Long => SLOW + PATIENCE,
        Deadline::Short => SHORT_DEADLINE,
    };
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(from).expect("it is there") {
        let file = file.expect("it is read");
        fs::copy(file.path(), to.join(file.file_name())).expect("a file");
    }
}
