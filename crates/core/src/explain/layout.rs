//! Layout: mistakes in the pieces of the signed string, their order and their separators.

use std::fmt;

use sha2::{Digest as _, Sha512};

use super::{ClaimedRequest, MistakeChange, MistakeHypothesis};

/// The pieces of a signed string and the separator between them.
///
/// [`Payload`](crate::Payload) alone defines the right layout; a test compares [`StringLayout::RIGHT`] with it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct StringLayout {
    pieces: &'static [LayoutPiece],
    between: LayoutSeparator,
    /// Whether the separator also follows the last piece.
    ends: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LayoutPiece {
    Timestamp,
    Nonce,
    Body,
    Method,
    Path,
    Target,
    Query,
    BodyHash,
}

/// A separator between two pieces: its bytes, and its printed name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LayoutSeparator(&'static str, &'static str);

use LayoutPiece::{Body, BodyHash, Method, Nonce, Path, Query, Target, Timestamp};

const LF: LayoutSeparator = LayoutSeparator("\n", " LF ");
const NOTHING: LayoutSeparator = LayoutSeparator("", " ");
const SEPARATORS: [LayoutSeparator; 11] = [
    LF,
    NOTHING,
    LayoutSeparator("\\n", r" \n "),
    LayoutSeparator("\r\n", " CR LF "),
    LayoutSeparator("&", " & "),
    LayoutSeparator(".", " . "),
    LayoutSeparator(",", " , "),
    LayoutSeparator(":", " : "),
    LayoutSeparator("|", " | "),
    LayoutSeparator(" ", " space "),
    LayoutSeparator("-", " - "),
];
/// Timestamp, nonce and body in another order, or with pieces missing.
const ORDERS: [&[LayoutPiece]; 9] = [
    &[Nonce, Timestamp, Body],
    &[Timestamp, Body, Nonce],
    &[Body, Timestamp, Nonce],
    &[Nonce, Body, Timestamp],
    &[Body, Nonce, Timestamp],
    &[Timestamp, Body],
    &[Nonce, Body],
    &[Timestamp, Nonce],
    &[Body],
];
/// Layouts with pieces that other APIs sign.
const MORE: [&[LayoutPiece]; 9] = [
    &[Timestamp, Nonce, Path, Body],
    &[Timestamp, Nonce, Target, Body],
    &[Timestamp, Nonce, Query, Body],
    &[Timestamp, Nonce, Method, Path, Body],
    &[Timestamp, Nonce, Method, Target, Body],
    &[Timestamp, Nonce, Method, Path, Query, Body],
    &[Method, Path, Timestamp, Nonce, Body],
    &[Method, Target, Timestamp, Nonce, Body],
    &[Method, Path, Query, Timestamp, Nonce, Body],
];
/// The signed pieces of API v4, the related API of the exchange.
const API_V4: &[LayoutPiece] = &[Method, Path, Query, BodyHash, Timestamp];

impl StringLayout {
    pub(super) const RIGHT: Self = Self {
        pieces: &[Timestamp, Nonce, Body],
        between: LF,
        ends: true,
    };

    /// The string for this timestamp and body. A piece that the request lacks is empty.
    pub(super) fn string(
        &self,
        request: &ClaimedRequest<'_>,
        timestamp: &str,
        body: &[u8],
    ) -> Vec<u8> {
        let (method, target) = request
            .line
            .map_or(("", ""), |line| (line.method, line.target));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut string = Vec::with_capacity(body.len() + 256);
        for (at, piece) in self.pieces.iter().enumerate() {
            if at > 0 {
                string.extend_from_slice(self.between.0.as_bytes());
            }
            match piece {
                Timestamp => string.extend_from_slice(timestamp.as_bytes()),
                Nonce => string.extend_from_slice(request.nonce.as_bytes()),
                Body => string.extend_from_slice(body),
                Method => string.extend_from_slice(method.as_bytes()),
                Path => string.extend_from_slice(path.as_bytes()),
                Target => string.extend_from_slice(target.as_bytes()),
                Query => string.extend_from_slice(query.as_bytes()),
                BodyHash => string.extend_from_slice(hex::encode(Sha512::digest(body)).as_bytes()),
            }
        }
        if self.ends {
            string.extend_from_slice(self.between.0.as_bytes());
        }
        string
    }
}

/// The layouts that may have been signed: each string differs from the right string and from the others.
pub(super) fn hypotheses(request: &ClaimedRequest<'_>) -> Vec<MistakeHypothesis> {
    let right = StringLayout::RIGHT;
    let of = |pieces, between, ends| StringLayout {
        pieces,
        between,
        ends,
    };
    let joined = SEPARATORS
        .iter()
        .flat_map(|between| [false, true].map(|ends| of(right.pieces, *between, ends)));
    let ordered = ORDERS.iter().flat_map(|pieces| {
        [
            of(pieces, LF, true),
            of(pieces, LF, false),
            of(pieces, NOTHING, false),
        ]
    });
    let more = MORE.iter().flat_map(|pieces| {
        [
            of(pieces, LF, true),
            of(pieces, LF, false),
            of(pieces, NOTHING, false),
        ]
    });
    let more = more
        .chain([of(API_V4, LF, false)])
        .filter(|_| request.line.is_some());

    let mut seen = vec![right.string(request, request.timestamp, request.body)];
    let mut hypotheses = Vec::new();
    for layout in joined.chain(ordered).chain(more) {
        let string = layout.string(request, request.timestamp, request.body);
        if !seen.contains(&string) {
            seen.push(string);
            hypotheses.push(MistakeHypothesis::new(
                layout.to_string(),
                MistakeChange::Layout(layout),
            ));
        }
    }
    hypotheses
}

/// The layout in the protocol's notation: `timestamp LF nonce LF body LF`.
impl fmt::Display for StringLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.pieces.iter().map(|piece| piece.name()).collect();
        let end = if self.ends {
            self.between.1.trim_end()
        } else {
            ""
        };
        write!(f, "`{}{end}`", names.join(self.between.1))?;
        match self.between {
            NOTHING => f.write_str(" with nothing between"),
            LayoutSeparator(r"\n", _) => f.write_str(r", where \n is a backslash and an n"),
            _ if self.pieces == API_V4 => f.write_str(", as the exchange's API v4 has it"),
            _ => Ok(()),
        }
    }
}

impl LayoutPiece {
    fn name(self) -> &'static str {
        match self {
            Timestamp => "timestamp",
            Nonce => "nonce",
            Body => "body",
            Method => "method",
            Path => "path",
            Target => "path?query",
            Query => "query",
            BodyHash => "SHA-512(body)",
        }
    }
}
