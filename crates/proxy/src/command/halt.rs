//! `halt` and `resume`: calls of one kind stop, and go on.

use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gatepay_tenancy::PartyId;
use http::Method;
use serde_json::Value;

use super::admin_client::AdminArguments;
use super::{ExitStatus, complain};

/// Halt calls: once this returns, no byte of a halted call goes to GatePay, by any instance of the store.
#[derive(Args)]
pub(crate) struct HaltCommand {
    #[command(flatten)]
    scope: HaltScopeArguments,
    /// Wait until no call is in flight on the process that is asked: of the tenant, or any call, reads too.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// End a halt. If caps.approvals is 2, another operator has to order the same.
#[derive(Args)]
pub(crate) struct ResumeCommand {
    #[command(flatten)]
    scope: HaltScopeArguments,
    #[command(flatten)]
    arguments: AdminArguments,
}

/// The calls.
#[derive(Args)]
struct HaltScopeArguments {
    /// The calls.
    #[arg(value_enum)]
    scope: HaltScopeWord,
    /// The tenant or operator, after the word tenant.
    #[arg(value_parser = PartyId::parse, required_if_eq("scope", "tenant"))]
    id: Option<PartyId>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HaltScopeWord {
    /// Every call, reads too.
    All,
    /// Calls that move money.
    Money,
    /// Payouts and batch transfers.
    Payouts,
    /// Writes and money calls of a tenant or an operator.
    Tenant,
}

/// The interval at which the calls in flight are looked at.
const LOOK: Duration = Duration::from_millis(200);

impl HaltScopeArguments {
    /// The scope in a query; an error if an id follows another word than tenant.
    fn word(&self) -> Result<String, ExitStatus> {
        match (self.scope, &self.id) {
            (HaltScopeWord::All, None) => Ok("all".to_owned()),
            (HaltScopeWord::Money, None) => Ok("money".to_owned()),
            (HaltScopeWord::Payouts, None) => Ok("payouts".to_owned()),
            (HaltScopeWord::Tenant, Some(id)) => Ok(format!("tenant:{id}")),
            _ => {
                complain("an id follows the word tenant, and no other");
                Err(ExitStatus::Usage)
            }
        }
    }
}

impl HaltCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let scope = match self.scope.word() {
            Ok(scope) => scope,
            Err(exit) => return exit,
        };
        let parameters = [("scope", Some(&*scope))];
        let lines = |answer: &Value| said(answer, "halted");
        let is_confirmed = |answer: &Value| answer["confirmed"] == true;
        let halted =
            self.arguments
                .run_judged(&Method::POST, "/-/halt", &parameters, (lines, is_confirmed));
        if halted != ExitStatus::Fine || !self.wait {
            return halted;
        }
        loop {
            match self.arguments.ask(&Method::GET, "/-/halt", &parameters) {
                Err(exit) => return exit,
                Ok(answer) if answer["in_flight"] == 0 => return ExitStatus::Fine,
                Ok(_) => thread::sleep(LOOK),
            }
        }
    }
}

impl ResumeCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let scope = match self.scope.word() {
            Ok(scope) => scope,
            Err(exit) => return exit,
        };
        let parameters = [("scope", Some(&*scope))];
        let lines = |answer: &Value| said(answer, "resumed");
        self.arguments
            .run(&Method::POST, "/-/halt/end", &parameters, lines)
    }
}

fn said(answer: &Value, done: &str) -> Vec<String> {
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let scope = text("scope");
    let mut lines = Vec::new();
    if answer["needs"] == 0 {
        lines.push(format!("{done}: {scope}"));
    } else {
        lines.push(format!(
            "still halted: {scope}; another operator has to order the same within a day"
        ));
    }
    lines.push(format!(
        "calls in flight on this process: {}",
        answer["in_flight"]
    ));
    let notes = answer["notes"].as_array().into_iter().flatten();
    lines.extend(notes.filter_map(Value::as_str).map(str::to_owned));
    lines
}
