//! Timestamp: mistakes in the signed timestamp.

use super::{MistakeChange, MistakeHypothesis};

/// Maximum difference, in milliseconds, between two readings of the clock: one for the header, one for the signature.
const TWO_LOOKS: u64 = 100;

/// The likely unit of a timestamp that is not in milliseconds: until 2286 the number of digits shows the unit.
pub fn unit(timestamp: &str) -> Option<&'static str> {
    if !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match timestamp.len() {
        10 => Some("seconds"),
        16 => Some("microseconds"),
        19 => Some("nanoseconds"),
        _ => None,
    }
}

/// The timestamps that may have been signed instead of the header's digits.
pub(super) fn hypotheses(header: &str) -> Vec<MistakeHypothesis> {
    let Some(time) = header
        .parse::<u64>()
        .ok()
        .filter(|_| header.bytes().all(|b| b.is_ascii_digit()))
    else {
        return Vec::new();
    };
    let signed =
        |what: String, text: String| MistakeHypothesis::new(what, MistakeChange::Timestamp(text));
    match (header.len(), unit(header)) {
        (_, Some("seconds")) => (0..1000)
            .map(|millis| MistakeHypothesis {
                rare: millis != 0,
                ..signed(
                    "the time in milliseconds, where the header has seconds".to_owned(),
                    format!("{header}{millis:03}"),
                )
            })
            .collect(),
        (_, Some(unit)) => {
            vec![signed(
                format!("the time in milliseconds, where the header has {unit}"),
                header[..13].to_owned(),
            )]
        }
        (13, None) => {
            let (seconds, millis) = header.split_at(10);
            let looks = (1..=TWO_LOOKS).flat_map(|by| {
                [
                    (by, "earlier", time.checked_sub(by)),
                    (by, "later", time.checked_add(by)),
                ]
            });
            let looks = looks.filter_map(|(by, direction, time)| {
                let what = format!(
                    "a time {by} ms {direction} than the header's: the clock was read twice"
                );
                Some(MistakeHypothesis {
                    rare: true,
                    ..signed(what, time?.to_string())
                })
            });
            [
                signed(
                    "the time in seconds, where the header has milliseconds".to_owned(),
                    seconds.to_owned(),
                ),
                signed(
                    "the time in seconds with a fraction".to_owned(),
                    format!("{seconds}.{millis}"),
                ),
            ]
            .into_iter()
            .chain(looks)
            .collect()
        }
        _ => Vec::new(),
    }
}
