//! Callers' connections: accepting them, HTTP/1 and HTTP/2, and the end of each connection.

pub mod accept;
pub mod http1;
pub mod http2;
pub mod http2_frames;
pub mod http2_head;
pub mod lifetime;
pub mod proxy_protocol;
pub mod transport;
pub mod turned_away;
pub mod write_batching;
