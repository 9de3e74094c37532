//! The program `gatepay-proxy`: reads the command line, runs one command, and reports its result by the exit code.

mod command;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use command::ExitStatus;

/// The reverse proxy between an institution's sub-merchants and GatePay.
/// It verifies each tenant's signed request, refuses replays, enforces the tenant's rate, signs the request again as the
/// institution on behalf of the tenant's sub-account, and relays the answer. Try it with `gatepay-proxy demo`.
#[derive(Parser)]
#[command(name = "gatepay-proxy", version = command::version::LINE, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(command::serve::ServeCommand),
    Check(command::check::CheckCommand),
    Demo(command::demo::DemoCommand),
    Sandbox(command::sandbox::SandboxCommand),
    Call(command::call::CallCommand),
    Sign(command::sign::SignCommand),
    Explain(command::explain::ExplainCommand),
    #[command(subcommand)]
    Tenant(command::tenant::TenantCommand),
    Operations(command::operations::OperationsCommand),
    #[command(subcommand)]
    Audit(command::audit::AuditCommand),
    #[command(subcommand)]
    Notifications(command::notifications::NotificationsCommand),
    Halt(command::halt::HaltCommand),
    Resume(command::halt::ResumeCommand),
    Approvals(command::approvals::ApprovalsCommand),
    Approve(command::approvals::ApproveCommand),
    Reject(command::approvals::RejectCommand),
    #[command(subcommand)]
    Ledger(command::ledger::LedgerCommand),
    Find(command::find::FindCommand),
    Caps(command::caps::CapsCommand),
    #[command(subcommand)]
    Probe(command::probe::ProbeCommand),
    Schema(command::schema::SchemaCommand),
    Statement(command::statement::StatementCommand),
    #[command(subcommand)]
    State(command::state::StateCommand),
    #[command(subcommand)]
    Store(command::store::StoreCommand),
    Completions(command::completions::CompletionsCommand),
    #[command(hide = true)]
    Manual(command::completions::ManualCommand),
    Version(command::version::VersionCommand),
}

/// The allocator copes with many small strings: a hundred thousand tenants are about a million of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gatepay_proxy::process::panic_hook::report();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            command::unknown::suggest(&mut error);
            // `--help` and `--version` arrive here too; they are no fault. Nothing is left to do if printing fails.
            let _ = error.print();
            return if error.use_stderr() {
                ExitStatus::Usage
            } else {
                ExitStatus::Fine
            }
            .into();
        }
    };
    let exit = match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Demo(demo) => demo.run(),
        Command::Sandbox(sandbox) => sandbox.run(),
        Command::Call(call) => call.run(),
        Command::Sign(sign) => sign.run(),
        Command::Explain(explain) => explain.run(),
        Command::Tenant(tenant) => tenant.run(),
        Command::Operations(operations) => operations.run(),
        Command::Audit(audit) => audit.run(),
        Command::Notifications(notifications) => notifications.run(),
        Command::Halt(halt) => halt.run(),
        Command::Resume(resume) => resume.run(),
        Command::Approvals(approvals) => approvals.run(),
        Command::Approve(approve) => approve.run(),
        Command::Reject(reject) => reject.run(),
        Command::Ledger(ledger) => ledger.run(),
        Command::Find(find) => find.run(),
        Command::Caps(caps) => caps.run(),
        Command::Probe(probe) => probe.run(),
        Command::Schema(schema) => schema.run(),
        Command::Statement(statement) => statement.run(),
        Command::State(state) => state.run(),
        Command::Store(store) => store.run(),
        Command::Completions(completions) => completions.run(Arguments::command()),
        Command::Manual(manual) => manual.run(Arguments::command()),
        Command::Version(version) => version.run(),
    };
    exit.into()
}
