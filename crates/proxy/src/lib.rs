//! The reverse proxy between an institution's sub-merchants and GatePay.
//!
//! What it deliberately is not: it does not know the bytes that are signed (`gatepay-core` does) nor how a file
//! becomes a tenant (`gatepay-tenancy` does).
//!
//! Read [`journey`] first: it lists the steps of a request in order, one module each.

pub mod journey;

pub mod admit;
pub mod answer;
pub mod authenticate;
pub mod forward;
pub mod ingress;
pub mod record;
pub mod relay;
pub mod route;
pub mod sign;

pub mod activation;
pub mod admin;
pub mod app;
pub mod bound;
pub mod breaker;
pub mod client;
pub mod clock;
pub mod crowd;
pub mod descriptors;
pub mod drain;
pub mod egress;
pub mod fields;
pub mod files;
pub mod frames;
pub mod framing;
pub mod generation;
pub mod guardian;
pub mod happy_eyeballs;
pub mod head;
pub mod headers;
pub mod heartbeat;
pub mod http1;
pub mod http2;
pub mod http2_head;
pub mod identity;
pub mod inbound;
pub mod journal;
pub mod lane;
pub mod lifetime;
pub mod limit;
pub mod limiter;
pub mod line;
pub mod listener;
pub mod log;
pub mod mark;
pub mod metrics;
pub mod origin;
pub mod pace;
pub mod panics;
pub mod penalty;
pub mod pinned;
pub mod pool;
pub mod probe;
pub mod process;
pub mod proxy_header;
pub mod quota;
pub mod refusal;
pub mod reload;
pub mod repeat;
pub mod replay;
pub mod resolve;
pub mod roster;
pub mod rows;
pub mod scratch;
pub mod server;
pub mod shutdown;
pub mod signer;
pub mod slots;
pub mod state;
pub mod status;
pub mod threads;
pub mod throttle;
pub mod tls;
pub mod trace;
pub mod turn;
pub mod uses;
pub mod wire;
pub mod yielding;
