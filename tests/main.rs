//! Tests of the program through its real listener, in one binary, so that linking happens once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

mod support;

// A valid request arrives at GatePay unchanged, signed by the institution.
mod forwarding;
// Only harmless headers of a tenant's request are forwarded; the proxy sets the account and the time itself.
mod headers;
// GatePay's answer reaches the caller unchanged, or visibly cut.
mod relay;
// A request that has two readings, is too large or is too slow is refused and never forwarded.
mod ingress;
// Only trusted proxies state a caller's address.
mod origins;
// The listener uses the certificate of its files, also after the files changed.
mod tls;
// An attack on a connection ends that connection and disturbs no other caller.
mod abuse;
// A tenant that attacks the proxy within its limits takes no service from another tenant.
mod isolation;
// A single connection, stream or request takes no more memory than the bound of `check` counts for it.
mod bound;
// The whole process stays within the memory bound of `check`, under attack.
mod memory;
// Each byte stream has a single reading, so no party on the path could have read another request.
mod framing;
// nginx, HAProxy and Node, before or behind the proxy, read the same requests as the proxy.
mod differential;
// Laws that hold for any bytes.
mod fuzzing;
// HTTP/1 and HTTP/2 connections stay open as long as callers use them.
mod connections;
// A caller that sends `Expect: 100-continue` gets 100, or a refusal instead.
mod expect;
// When all connection slots are taken, idle connections are evicted, and every connection has a time limit.
mod slots;
// A request with a wrong signature or a stale timestamp is refused, each with its own reason.
mod authentication;
// A refusal's status, headers and message agree, for any client.
mod refusals;
// A signed request is executed once.
mod replay;
// After a restart or a crash the next process executes no signed request again.
mod restarts;
// A tenant calls only permitted operations, from permitted addresses, and none of the institution's own.
mod permissions;
// Every operation of GatePay is routed exactly as the catalogue says; no other request is routed.
mod catalogue;
// Requests of real GatePay clients are forwarded unchanged.
mod clients;
// Only the paths of catalogue rows are routed, for any request.
mod default_deny;
// No configuration lets tenants reach the institution's own operations.
mod reserved;
// A signed request of a tenant concerns that tenant alone, and has a single reading.
mod steering;
// The institution's own back office works without the institution's secret.
mod operators;
// Rules and metrics apply to the back office as to a tenant; neither party sees the other's paths.
mod operator_rules;
// A body that GatePay would refuse is refused by the proxy, with the field's name.
mod checks;
// Rate limits hold each party to its share, and a refused request costs no other party.
mod limits;
// When GatePay's answer is missing, the stated outcome of the call is true.
mod outcomes;
// `not-executed` covers all copies of a request: none of the copies was executed.
mod copies;
// GatePay's answer to a money call is relayed if it proves an outcome; otherwise the outcome is looked up.
mod answers;
// The stated outcome is true wherever a connection to GatePay breaks.
mod faults;
// Under many calls with random faults, GatePay's ledger and the proxy's answers agree.
mod agreement;
// No order of calls, crashes, clock steps and restored folders makes an answer about money untrue.
mod money_model;
// A caller may hang up at any byte; its call is executed whole, or not at all.
mod hang_ups;
// After a lost call the proxy asks GatePay for the outcome.
mod resolving;
// The proxy retries only reads and requests that were not written, and only a few times.
mod repeats;
// Upstream connections are limited and recover after an outage; a call without a connection was not sent.
mod egress;
// The circuit breaker stops calls while GatePay is down, and closes when GatePay is back.
mod breaker;
// The proxy detects a wrong clock before GatePay refuses its stamps.
mod clocks;
// No tenant reaches another tenant's orders.
mod tenants;
// The configuration in force is reported by its hash, and key by key.
mod configuration;
// Many tenants take little memory each, and a single tenant changes without the others.
mod scale;
// Every request leaves one record, however it ends.
mod records;
// Operators see counts and readiness, also after a crash.
mod operating;
// No client of the admin listener keeps probes out; only authorized clients read and change protected state.
mod admin;
// The number of series is bounded; rules and dashboard query only existing metrics.
mod metrics;
// A stuck worker is detected.
mod workers;
// The status page shows the present state to people.
mod status;
// An operator suspends a tenant over HTTP, by name; the suspension outlasts file changes and restarts.
mod suspending;
// A real Prometheus scrapes the proxy and finds the series of dashboard and rules.
mod scraped;
// Instances that share a store execute each request once, and refuse while the store is away.
mod clusters;
// Limits hold for all instances together.
mod cluster_limits;
// GatePay's notifications are stored with their owner before they are acknowledged.
mod notifications;
// No call goes to GatePay beyond a money cap, whatever instance, crash or lost answer.
mod caps;
// A statement tells to the last digit what a tenant used on a day, and does not change after the day.
mod statements;
// The commands about the store say in one line what is wrong with it and what to do.
mod store_commands;
// The shipped files for HAProxy and Kubernetes run two instances; no call fails while one drains.
mod deployments;
// The audit journal records each call before and after; any change of the journal is detected.
mod journal;
// Changed files take effect within the interval, whole or not at all, and no request fails.
mod reload;
// A tenant's or the institution's key is replaced by another, and no request fails.
mod rotation;
// Shutdown loses no request, and does not wait for callers without one.
mod drain;
// The process ends by its deadline even if a thread does not.
mod endings;
// A restart on sockets that outlive the process loses no request.
mod restart;
// Secrets stay secret, and a caller's words are not repeated.
mod secrecy;
// The real binary starts from files, answers real clients, and ends on a signal.
mod process;
// The commands besides `serve` print their results and end with the right exit code.
mod commands;
// Commands find the configuration, and answer programs in JSON.
mod command_output;
// The description of the admin address names every path, method, parameter and answer of it.
mod openapi;
// The pages of the documentation have links that lead somewhere, and say what the program says.
mod pages;
// Tenants are onboarded in bulk, whole or not at all, and changed key by key.
mod onboarding;
// Help, metrics, messages and alerts name their nouns.
mod words;
// The sources keep the prohibitions of the design.
mod architecture;
// The page for tenants that receive notifications tells the truth.
mod receiving;
