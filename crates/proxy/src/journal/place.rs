//! Where in the journal's chain a record stands, and where a chain ended.

use std::fmt;
use std::str::FromStr;

use gatepay_core::ChainLink;

/// The end of a chain at some time, written `run.seq.link` as in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    pub(super) run: u32,
    pub(super) seq: u64,
    pub(super) link: ChainLink,
}

/// Where in the chain a record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChainPosition {
    pub(super) run: u32,
    pub(super) seq: u64,
    pub(super) link: ChainLink,
}

impl ChainPosition {
    /// The head of the chain while this is its last record.
    pub(super) fn head(&self) -> ChainHead {
        let Self { run, seq, link } = *self;
        ChainHead { run, seq, link }
    }
}

impl FromStr for ChainHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.split('.');
        let head = (|| {
            Some(Self {
                run: fields.next()?.parse().ok()?,
                seq: fields.next()?.parse().ok()?,
                link: ChainLink::parse(fields.next()?)?,
            })
        })();
        head.filter(|_| fields.next().is_none())
            .ok_or("must be a head as the log has it: run.seq.link")
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.run, self.seq, self.link)
    }
}
