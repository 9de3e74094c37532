//! What the program does, seen through its real listener. One binary, so that it links once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

mod support;

// A request that is fine arrives at GatePay as it was sent, signed by the institution.
mod forwarding;
// Of a tenant's head only what is harmless goes on; whose call it is, and when, is ours to say.
mod headers;
// GatePay's answer comes back as it was, or visibly broken.
mod relay;
// A request that has two readings, is too large or too slow goes nowhere.
mod ingress;
// Where a caller is, trusted proxies say, and nobody else.
mod origins;
// The listener's certificate is what its files say, also after they changed.
mod tls;
// Whoever attacks a connection, loses that connection, and nobody else notices.
mod abuse;
// A tenant that does all the harm it can takes nobody's service away.
mod isolation;
// What one of anything takes is no more than the memory's bound counts for it.
mod bound;
// Nor is all of it together, under attack.
mod memory;
// Nobody between the caller and GatePay could have read another request than was acted on.
mod framing;
// Nor do nginx, HAProxy and Node, before the proxy or behind it, read another request.
mod differential;
// What must hold for any bytes at all.
mod fuzzing;
// Connections of either version of HTTP live as long as they are used.
mod connections;
// A caller that waits for leave to send its body is told to, or refused instead.
mod expect;
// When all connections are taken, those without a request give way, and none lasts for ever.
mod slots;
// A request that is not from who it says, or not fresh, is refused, each for its own reason.
mod authentication;
// A refusal says the same in its status, its headers and its message, to any client.
mod refusals;
// A signed request is acted on once.
mod replay;
// Nor is it by the next process, however the one before ended.
mod restarts;
// A tenant calls what it may call, from where it may, and nothing of the institution's own.
mod permissions;
// Every operation of GatePay's goes exactly where the catalogue says, and nothing else goes anywhere.
mod catalogue;
// Whatever clients of GatePay's send, goes through as it was sent.
mod clients;
// No path but a row's own leads anywhere, whatever is sent.
mod default_deny;
// Whatever is configured, tenants do not reach what is the institution's own.
mod reserved;
// What a tenant signs is about that tenant alone, and has one reading.
mod steering;
// The institution's own back office works without the institution's secret.
mod operators;
// It is held to rules like a tenant's, and is seen like one; neither side sees the other's paths.
mod operator_rules;
// Bodies GatePay would refuse anyway are refused by field.
mod checks;
// Nobody sends more than their share, and nobody pays for what was refused.
mod limits;
// When GatePay cannot be heard, what is said about the money is true.
mod outcomes;
// And of copies: what is said to be not executed was executed by none of them.
mod copies;
// What an answer to money proves is said, and what it does not prove is looked up.
mod answers;
// Nor is it untrue when a connection breaks, wherever it does.
mod faults;
// However many there are, and whatever goes wrong, GatePay's books and what was answered are the same.
mod agreement;
// Nor does any order of calls, crashes, clock steps and restored folders make an answer about money untrue.
mod money_model;
// Callers may hang up at any byte; what they asked for is done whole, or not at all.
mod hang_ups;
// A lost call is not guessed about: GatePay is asked what became of it.
mod resolving;
// Nothing is sent twice but reads and what was not written, and not often.
mod repeats;
// There are only so many ways out, they are found again, and what cannot get out was not sent.
mod egress;
// While GatePay is down nothing is sent to it, and when it is back it is noticed.
mod breaker;
// A clock that is wrong is noticed before GatePay refuses what it stamps.
mod clocks;
// One tenant never meets another's orders.
mod tenants;
// What is in force is told by its name, and key by key.
mod configuration;
// Many of them are small, and one changes without the others.
mod scale;
// Every request is written down once, however it ends.
mod records;
// Operators see counts and readiness, also after a crash.
mod operating;
// Nobody who reaches the admin listener keeps probes out, and few see and change anything.
mod admin;
// What is counted is bounded, and rules and dashboard ask for nothing else.
mod metrics;
// A worker that is stuck is noticed.
mod workers;
// A page for people says how things are now.
mod status;
// A tenant is stopped by HTTP, by name, and stays so whatever becomes of files and processes.
mod suspending;
// A real Prometheus scrapes it, and finds what dashboard and rules ask for.
mod scraped;
// Audit: what is written down before and after a call, and that nobody changes it unseen.
mod journal;
// Changed files are at work within the interval, whole or not at all, and no request notices.
mod reload;
// A key is replaced by another, the tenant's or the institution's, and no request fails.
mod rotation;
// It ends without losing a request, and without waiting for callers that have none.
mod drain;
// It ends by its deadline even if one of its threads does not.
mod endings;
// Nor when it is restarted on sockets that outlive it.
mod restart;
// What is secret stays secret, and what a caller said is not repeated.
mod secrecy;
// The real binary starts from files, answers real clients, and ends on a signal.
mod process;
// The commands besides `serve` print their results and end with the right exit code.
mod commands;
// Help, metrics, messages and alerts name their nouns.
mod words;
// What the design says is never so, is not so in the sources.
mod architecture;
