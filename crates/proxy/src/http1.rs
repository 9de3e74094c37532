//! HTTP/1 message framing: where a message begins and ends, read in one way only. Bytes in, spans out, without I/O.

pub mod body_buffer;
pub mod buffer_pool;
pub mod content_coding;
pub mod header_block;
pub mod request_head;
pub mod request_parser;
pub mod response_parser;
pub mod wire_lines;
