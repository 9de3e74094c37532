//! Where an HTTP/1 message begins and ends, in one reading. Bytes in, spans out: nothing here does I/O.

pub mod body_buffer;
pub mod buffer_pool;
pub mod content_coding;
pub mod header_block;
pub mod request_head;
pub mod request_parser;
pub mod response_parser;
pub mod wire_lines;
