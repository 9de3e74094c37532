//! Single values: parsers from a [`ConfigValue`] to a type that cannot be wrong.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde_json::json;

use crate::syntax::document::ConfigValue;
use crate::syntax::table_reader::ValueFault;

/// The most requests per second, and at once, that can be configured: far above the capacity of one process.
const MOST_REQUESTS: u32 = 1_000_000;
/// A body is held in memory, once for each connection.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// The longest time that can be asked for, a day: a longer one is a slip of the unit.
const LONGEST_MS: u64 = 86_400_000;

/// A text that `parse` accepts. Its error must not repeat the text.
pub(crate) fn text<T, E: fmt::Display>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&ConfigValue) -> Result<T, ValueFault> {
    move |value| {
        value.record(|| json!({ "type": "string" }));
        match value {
            ConfigValue::Text(text) => parse(text).map_err(|error| error.to_string().into()),
            _ => Err("must be a string".into()),
        }
    }
}

/// One of a few words.
pub(crate) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&ConfigValue) -> Result<T, ValueFault> {
    move |value| {
        value.record(|| json!({ "enum": words.iter().map(|(word, _)| word).collect::<Vec<_>>() }));
        let meant = match value {
            ConfigValue::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        meant.map(|(_, value)| *value).ok_or_else(|| {
            let list: Vec<_> = words
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            format!("must be {}", list.join(" or ")).into()
        })
    }
}

/// One of all the values of a type, by its word.
pub(crate) fn one_of<T: Copy>(
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> impl Fn(&ConfigValue) -> Result<T, ValueFault> {
    let words: Vec<_> = all.iter().map(|value| (as_str(*value), *value)).collect();
    move |value| word(&words)(value)
}

/// `true` or `false`.
pub(crate) fn flag(value: &ConfigValue) -> Result<bool, ValueFault> {
    value.record(|| json!({ "type": "boolean" }));
    match value {
        ConfigValue::Flag(flag) => Ok(*flag),
        _ => Err("must be true or false".into()),
    }
}

/// A whole number within bounds.
pub(crate) fn number(value: &ConfigValue, bounds: RangeInclusive<u64>) -> Result<u64, ValueFault> {
    value.record(|| {
        let mut accepts = json!({ "type": "integer", "minimum": bounds.start() });
        if *bounds.end() < u64::MAX {
            accepts["maximum"] = json!(bounds.end());
        }
        accepts
    });
    let ConfigValue::Integer(number) = value else {
        return Err("must be an integer".into());
    };
    match u64::try_from(*number) {
        Ok(number) if number > *bounds.end() => {
            Err(format!("must be at most {}", bounds.end()).into())
        }
        Ok(number) if number >= *bounds.start() => Ok(number),
        _ => Err(format!("must be at least {}", bounds.start()).into()),
    }
}

/// Requests, per second or at once.
pub(crate) fn requests(value: &ConfigValue) -> Result<NonZeroU32, ValueFault> {
    let number = number(value, 1..=MOST_REQUESTS.into())?;
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    Ok(number.expect("the bounds are those of the type"))
}

/// A rate of bytes per second, at most that of the slowest network in a data center.
pub(crate) fn bytes_per_second(value: &ConfigValue) -> Result<NonZeroU32, ValueFault> {
    let number = number(value, 1..=10_000_000)?;
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    Ok(number.expect("the bounds are within the type's"))
}

/// A number of things held in memory.
pub(crate) fn count(value: &ConfigValue) -> Result<NonZeroUsize, ValueFault> {
    let number = number(value, 1..=u32::MAX.into())?;
    let number = usize::try_from(number).ok().and_then(NonZeroUsize::new);
    Ok(number.expect("the bounds are within the type's"))
}

/// The size of a body.
pub(crate) fn body_bytes(value: &ConfigValue) -> Result<u64, ValueFault> {
    number(value, 1..=LARGEST_BODY)
}

/// A duration in milliseconds, at least one: none of ours can be switched off by a zero.
pub(crate) fn millis(value: &ConfigValue) -> Result<Duration, ValueFault> {
    number(value, 1..=LONGEST_MS).map(Duration::from_millis)
}

/// A time in milliseconds, or 0 for not at all.
pub(crate) fn millis_or_none(value: &ConfigValue) -> Result<Duration, ValueFault> {
    number(value, 0..=LONGEST_MS).map(Duration::from_millis)
}

/// A path, relative to the folder of the file that names it.
pub(crate) fn path(folder: &Path) -> impl Fn(&ConfigValue) -> Result<PathBuf, ValueFault> {
    text(move |text| match text {
        "" => Err("must not be empty"),
        _ => Ok(folder.join(text)),
    })
}

/// A network, or one address. IPv4 addresses in IPv6 form are IPv4 addresses, as those of callers are.
pub(crate) fn network(value: &ConfigValue) -> Result<IpNet, ValueFault> {
    let parse = |text: &str| {
        // `/08` may mean 8 or, to some, another number.
        let is_odd = text
            .split_once('/')
            .is_some_and(|(_, length)| length.len() > 1 && length.starts_with('0'));
        let network = text.parse::<IpNet>().ok().filter(|_| !is_odd);
        let network = network.or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok());
        match network {
            // 203.0.113.7/24 may mean one machine or a whole network.
            Some(network) if network != network.trunc() => {
                Err("has bits set beyond the length of its prefix")
            }
            Some(IpNet::V6(network)) => canonical(network),
            Some(network) => Ok(network),
            None => Err("must be a network or an address, like \"203.0.113.0/24\""),
        }
    };
    text(parse)(value)
}

/// The bits before an IPv4 address in IPv6 form, `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

fn canonical(network: Ipv6Net) -> Result<IpNet, &'static str> {
    let address = network.addr();
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    if let Some(address) = address.to_ipv4_mapped()
        && let Some(length) = network.prefix_len().checked_sub(MAPPED_BITS)
    {
        let network = Ipv4Net::new(address, length);
        return network
            .map(IpNet::V4)
            .map_err(|_| "has an invalid prefix length");
    }
    // A network above all IPv4 addresses would be read as if it had them; `::/0` is all of IPv6.
    if network.prefix_len() > 0 && network.contains(&mapped) {
        return Err("mixes IPv4-mapped and other addresses; list IPv4 networks separately");
    }
    // Of these no caller has one.
    let is_compatible = address.segments()[..6] == [0; 6] && u128::from(address) > 1;
    if network.prefix_len() >= MAPPED_BITS && is_compatible {
        return Err("has a deprecated form of an IPv4 address; write it like 203.0.113.7");
    }
    Ok(IpNet::V6(network))
}

/// A point in time in milliseconds since 1970, from RFC 3339 with an offset: a TOML time or a text.
pub(crate) fn time(value: &ConfigValue) -> Result<u64, ValueFault> {
    value.record(|| json!({ "type": "string", "format": "date-time" }));
    let parsed = match value {
        ConfigValue::Time(text) | ConfigValue::Text(text) => text.parse::<Timestamp>().ok(),
        _ => None,
    };
    parsed
        .and_then(|time| u64::try_from(time.as_millisecond()).ok())
        .ok_or_else(|| "must be a time with an offset, like \"2026-01-31T00:00:00Z\"".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that calls read like a table"
    )]
    fn is<T: PartialEq + fmt::Debug>(
        found: Result<T, ValueFault>,
        expected: Result<T, &'static str>,
    ) {
        assert_eq!(found, expected.map_err(ValueFault::from));
    }

    fn text(text: &str) -> ConfigValue {
        ConfigValue::Text(text.to_owned())
    }

    #[test]
    fn a_number_outside_its_bounds_is_told_the_bound() {
        is(number(&ConfigValue::Integer(1), 1..=5), Ok(1));
        is(number(&ConfigValue::Integer(5), 1..=5), Ok(5));
        is(
            number(&ConfigValue::Integer(0), 1..=5),
            Err("must be at least 1"),
        );
        is(
            number(&ConfigValue::Integer(-7), 1..=5),
            Err("must be at least 1"),
        );
        is(
            number(&ConfigValue::Integer(6), 1..=5),
            Err("must be at most 5"),
        );
        is(
            number(&ConfigValue::Integer(i64::MAX), 1..=5),
            Err("must be at most 5"),
        );
        is(
            number(&ConfigValue::Float(2.0), 1..=5),
            Err("must be an integer"),
        );
        is(number(&text("2"), 1..=5), Err("must be an integer"));
    }

    #[test]
    fn a_time_needs_an_offset() {
        is(time(&text("1970-01-01T00:00:01Z")), Ok(1_000));
        is(time(&text("1970-01-01T01:00:01+01:00")), Ok(1_000));
        is(
            time(&ConfigValue::Time("1970-01-01T00:00:01Z".to_owned())),
            Ok(1_000),
        );
        for bad in [
            "1970-01-01T00:00:01",
            "1970-01-01",
            "1960-01-01T00:00:00Z",
            "soon",
        ] {
            assert!(time(&text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_is_written_without_stray_bits() {
        let parse = |entry: &str| network(&text(entry)).map(|network| network.to_string());
        is(parse("203.0.113.0/24"), Ok("203.0.113.0/24".to_owned()));
        is(parse("203.0.113.7"), Ok("203.0.113.7/32".to_owned()));
        is(parse("2001:db8::/32"), Ok("2001:db8::/32".to_owned()));
        assert!(parse("203.0.113.7/24").is_err());
        assert!(parse("example.org").is_err());
        assert!(network(&ConfigValue::Integer(1)).is_err());
    }

    /// Callers' addresses are canonical, so that a network in another form would match none of them.
    #[test]
    fn a_network_of_ipv4_addresses_is_one_in_either_form() {
        let parse = |entry: &str| network(&text(entry)).map(|network| network.to_string());
        for (entry, expected) in [
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("::FFFF:7f00:1", "127.0.0.1/32"),
            ("0:0:0:0:0:ffff:203.0.113.7", "203.0.113.7/32"),
            ("::ffff:127.0.0.1/128", "127.0.0.1/32"),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("::", "::/128"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("64:ff9b::/96", "64:ff9b::/96"),
        ] {
            is(parse(entry), Ok(expected.to_owned()));
        }
        for odd in [
            "::ffff:203.0.113.7/120",
            "::/80",
            "::fffe:0:0/95",
            "::127.0.0.1",
            "::10.0.0.0/104",
            "203.0.113.0/024",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "010.0.0.1",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "127.0.0.1:80",
            "[::1]",
            "fe80::1%eth0",
            " 127.0.0.1",
            "127.0.0.1 ",
            "10.0.0.0/255.0.0.0",
        ] {
            assert!(parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_wrong_word_is_told_the_right_ones() {
        let parse = word(&[("local", 1), ("follow", 2)]);
        is(parse(&text("follow")), Ok(2));
        is(
            parse(&text("hunter2")),
            Err("must be \"local\" or \"follow\""),
        );
    }
}
