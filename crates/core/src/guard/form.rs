//! Form guard: checks the names of the parts of a form (`multipart/form-data`, RFC 7578).
//!
//! The signature does not cover the boundary, and parsers differ in which lines they take for a header. So the guard
//! checks every line that could be a header, anywhere in the body. A part's name must be plain: no parser changes it.

use std::ops::Range;

use super::parameters::FoldedParameters;
use super::{SteeringAttempt, is_plain_name};
use crate::query::decode;
use crate::reserved::ReservedName;
use crate::spelling::folded_name;

/// Checks that every part has a unique and plain name, and no reserved name.
///
/// The query has none of these names either. Reserved names name an account or make GatePay call the caller;
/// `is_allowed` permits some of them. The guard reads each byte a bounded number of times, for any number of names,
/// quotes and separators.
#[cold]
pub(super) fn guard(
    body: &[u8],
    parameters: &FoldedParameters<'_>,
    is_allowed: impl Fn(ReservedName) -> bool,
) -> Result<(), SteeringAttempt> {
    let (mut parts, mut last_end) = (Vec::new(), None);
    for line in lines_with_a_name(body) {
        let Some(name) = name_of_part(&body[line.clone()], &is_allowed)? else {
            continue;
        };
        // One part's head has two names.
        if last_end.is_some_and(|end| !has_empty_line(&body[end..line.start])) {
            return Err(SteeringAttempt::PartName);
        }
        last_end = Some(line.end);
        let name: Vec<u8> = folded_name(name).collect();
        if parameters.has(&name) || parts.contains(&name) {
            return Err(SteeringAttempt::RepeatedPart);
        }
        if parts.len() == MOST_PARTS {
            return Err(SteeringAttempt::TooManyParts);
        }
        parts.push(name);
    }
    Ok(())
}

/// The name that a line gives a part, if any.
fn name_of_part<'a>(
    line: &'a [u8],
    is_allowed: &impl Fn(ReservedName) -> bool,
) -> Result<Option<&'a [u8]>, SteeringAttempt> {
    let is_disposition = is_disposition(line);
    let mut found = None;
    for (position, parameter) in line.split(|byte| *byte == b';').enumerate() {
        if is_encoded(parameter) {
            return Err(SteeringAttempt::EncodedName);
        }
        if let Some(name) = name_that_matters(parameter)
            && !is_allowed(name)
        {
            return Err(match name {
                ReservedName::Account(field) => SteeringAttempt::Account(field),
                ReservedName::Callback => SteeringAttempt::Callback,
            });
        }
        if !is_disposition || position == 0 {
            continue;
        }
        if !is_plain(parameter) {
            return Err(SteeringAttempt::PartName);
        }
        if let Some(name) = value_of_name(parameter)
            && found.replace(name).is_some()
        {
            return Err(SteeringAttempt::PartName);
        }
    }
    Ok(found)
}

/// Whether a part's head ends in these bytes (RFC 2046, section 5.1), so that the next name belongs to another part.
fn has_empty_line(bytes: &[u8]) -> bool {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.any(|(at, _)| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// The lines of a body that contain `name`. A folded header is one line: a line that begins with a blank continues the
/// line before.
fn lines_with_a_name(body: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let name = begin + names(&body[begin..]).next()?;
        let before = (begin..name).rev().find(|at| is_end(body, *at));
        let start = before.map_or(begin, |at| at + 1);
        let end = (name..body.len()).find(|at| is_end(body, *at));
        let end = end.unwrap_or(body.len());
        begin = end;
        Some(start..end)
    })
}

fn is_end(body: &[u8], at: usize) -> bool {
    #[cfg(test)]
    tests::LOOKED_AT.set(tests::LOOKED_AT.get() + 1);
    matches!(body[at], b'\r' | b'\n')
        && !matches!(
            body[at + 1..],
            [b' ' | b'\t', ..] | [b'\n', b' ' | b'\t', ..]
        )
}

fn is_disposition(line: &[u8]) -> bool {
    const WORD: &[u8] = b"disposition";
    line.windows(WORD.len())
        .any(|window| window.eq_ignore_ascii_case(WORD))
}

/// The reserved name that a parser may find in a parameter: after its last separator, verbatim or unescaped.
fn name_that_matters(parameter: &[u8]) -> Option<ReservedName> {
    let name = names(parameter).last()? + NAME.len();
    let separator = parameter
        .iter()
        .rposition(|byte| matches!(byte, b'=' | b'\''));
    let value = &parameter[separator.map_or(name, |at| name.max(at + 1))..];
    ReservedName::of(value)
        .or_else(|| ReservedName::of(decode(&String::from_utf8_lossy(value)).as_bytes()))
}

/// Whether a parameter may be `name*`, or a numbered piece: `name*0` (RFC 2231). Some parsers decode such a name.
fn is_encoded(parameter: &[u8]) -> bool {
    let Some(equals) = parameter.iter().rposition(|byte| *byte == b'=') else {
        return false;
    };
    names(&parameter[..equals]).any(|name| {
        let behind = parameter[name + NAME.len()..].trim_ascii_start();
        behind.starts_with(b"*")
    })
}

/// Whether a parameter of a part's disposition is either not the name parameter, or `name=` with a plain name: no
/// parser unquotes, decodes or folds the name.
fn is_plain(parameter: &[u8]) -> bool {
    let parameter = parameter.trim_ascii();
    let is_filename = parameter
        .get(..FILENAME.len())
        .is_some_and(|word| word.eq_ignore_ascii_case(FILENAME));
    let value_of = |name: usize| parameter[name + NAME.len()..].trim_ascii_start();
    match names(parameter).next() {
        Some(0) => has_plain_name(value_of(0)),
        // `name` inside a file's name is harmless. Inside another parameter, a parser that splits there finds a name.
        Some(_) => is_filename || !names(parameter).any(|at| value_of(at).starts_with(b"=")),
        None => true,
    }
}

/// Whether the text after `name` is `=` and a plain name, or continues a longer word: `name-of-file`.
fn has_plain_name(behind: &[u8]) -> bool {
    let [b'=', value @ ..] = behind else {
        return matches!(behind, [first, ..] if first.is_ascii_alphanumeric() || matches!(first, b'-' | b'_'));
    };
    is_plain_name(unquoted(value))
}

/// The name that a parameter gives its part. The parameter has passed `is_plain`.
fn value_of_name(parameter: &[u8]) -> Option<&[u8]> {
    let parameter = parameter.trim_ascii();
    let behind = (names(parameter).next() == Some(0)).then(|| &parameter[NAME.len()..])?;
    let value = behind.trim_ascii_start().strip_prefix(b"=")?;
    Some(unquoted(value))
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value.trim_ascii() {
        [b'"', quoted @ .., b'"'] => quoted,
        unquoted => unquoted,
    }
}

/// The offsets of `name` where it does not end a longer word: `filename` names no part.
fn names(text: &[u8]) -> impl Iterator<Item = usize> {
    let is_name = |at: &usize| {
        text[*at..]
            .get(..NAME.len())
            .is_some_and(|word| word.eq_ignore_ascii_case(NAME))
            && !(*at > 0 && text[at - 1].is_ascii_alphanumeric())
    };
    (0..text.len()).filter(move |at| {
        #[cfg(test)]
        tests::LOOKED_AT.set(tests::LOOKED_AT.get() + 1);
        matches!(text[*at], b'n' | b'N') && is_name(at)
    })
}

/// The maximum number of parts. GatePay's forms have less than ten, and servers have maximums too.
pub(super) const MOST_PARTS: usize = 128;
const NAME: &[u8] = b"name";
const FILENAME: &[u8] = b"filename";

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// The number of comparisons of a byte with the beginning of `name`, or with the end of a line.
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    fn judge(disposition: &str) -> Result<(), SteeringAttempt> {
        let form = format!(
            "--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\nname\r\n--b--\r\n"
        );
        guard(form.as_bytes(), &FoldedParameters::default(), |_| false)
    }

    #[test]
    fn a_name_encoded_by_rfc_2231_or_5987_is_refused() {
        for name in [
            "name*=utf-8''acc%6funtId",
            "NAME*=UTF-8'en'bankName",
            "name*0=account; name*1=Id",
            "name*0*=utf-8''acc%6f; name*1=untId",
            "name * = utf-8''x",
            "name\t*0 =x",
            "name\r\n *=utf-8''x",
            "\"name*\"=x; name*=y",
            "filename=\"a\" name*=utf-8''x",
            "name=\"bankName\"; name*=utf-8''x",
        ] {
            assert_eq!(judge(name), Err(SteeringAttempt::EncodedName), "{name}");
        }
    }

    #[test]
    fn a_name_that_readers_change_in_different_ways_is_refused() {
        for name in [
            "name=\"bank\\Name\"",
            "name=\"bank%4eame\"",
            "name=\"=?utf-8?Q?acc=6funtId?=\"",
            "name=\"bank;Name\"",
            "name=\"bank\"Name\"",
            "name=\"bankName",
            "name=bank\"Name\"",
            "name='bankName'",
            "name=\"bankName\", x=\"1\"",
            "name=\"b\u{e4}nk\"",
            "name=\"bank\u{17f}\"",
            "name=\"bank\0\"",
            "name=\"bank\r\n Name\"",
            "name=\"\"",
            "name=",
            "name",
            "name:\"bankName\"",
            "x name=\"bankName\"",
            "name=\"bankName\"; name=\"iban\"",
            "name=\"bankName\"; Name=bankName",
            "name=\"bankName\"\r\nContent-Disposition: form-data; name=\"iban\"",
            "name=\"bankName\"\nx: y\r\nContent-Disposition: form-data; name=\"iban\"",
            "\u{a0}name=\"bankName\"",
        ] {
            assert_eq!(judge(name), Err(SteeringAttempt::PartName), "{name}");
        }
    }

    #[test]
    fn an_account_is_found_behind_escapes_folds_and_encodings() {
        for name in [
            "name=\"acc\\ountId\"",
            "name=\"acc%6funtId\"",
            "name=acc%6FuntId",
            "name = \"accountId\"",
            "name=\r\n \"accountId\"",
            "name=\n\taccountId",
            "name=\"accountId",
            "name=\"account\u{130}d\"",
            "name=\"\u{17f}ub_merchant_id\"",
            "name=\"account\0Id\"",
            "name=\"accountId\"; name=\"bankName\"",
            "filename=\"a\"; name=\"accountId\"",
            "filename=\"a\" name=\"accountId\"",
        ] {
            assert!(
                matches!(judge(name), Err(SteeringAttempt::Account(_))),
                "{name}: {:?}",
                judge(name)
            );
        }
    }

    /// A form with one part per name, each name verbatim.
    fn form(names: &[&str]) -> String {
        let part =
            |name: &&str| format!("--b\r\nContent-Disposition: form-data; {name}\r\n\r\n1\r\n");
        names.iter().map(part).collect::<String>() + "--b--\r\n"
    }

    #[test]
    fn a_form_has_each_name_once_in_any_spelling() {
        for other in [
            "name=\"iban\"",
            "name=iban",
            "NAME = \"IBAN\"",
            "name=\"Iban\"; filename=\"a.pdf\"",
            "name=\"i-ban\"",
            "name=\"iban[]\"",
            "name=\"iban[0]\"",
            "name=\" iban \"",
        ] {
            for names in [
                ["name=\"iban\"", "name=\"bankName\"", other],
                [other, "name=\"swift\"", "name=\"iban\""],
            ] {
                let judged = guard(
                    form(&names).as_bytes(),
                    &FoldedParameters::default(),
                    |_| false,
                );
                assert_eq!(judged, Err(SteeringAttempt::RepeatedPart), "{names:?}");
            }
        }
        let names = [
            "name=\"iban\"",
            "name=\"iban2\"",
            "name=\"file\"; filename=\"iban\"",
        ];
        assert_eq!(
            guard(
                form(&names).as_bytes(),
                &FoldedParameters::default(),
                |_| false
            ),
            Ok(())
        );
    }

    #[test]
    fn a_form_has_as_many_parts_as_readers_agree_to_read() {
        let of = |parts: usize| {
            let names: Vec<_> = (0..parts).map(|at| format!("name=\"m{at}\"")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            guard(
                form(&names).as_bytes(),
                &FoldedParameters::default(),
                |_| false,
            )
        };
        assert_eq!(of(MOST_PARTS), Ok(()));
        assert_eq!(of(MOST_PARTS + 1), Err(SteeringAttempt::TooManyParts));
    }

    #[test]
    fn forms_of_common_client_libraries_pass() {
        for name in [
            "name=\"bankAccountName\"",
            "name=iban",
            "name = \"iban\" ",
            "Name=\"files[0]\"; filename=\"a; my name.pdf\"",
            "name=\"file\"; filename=\"ausweis m\u{fc}ller.pdf\"; filename*=UTF-8''ausweis%20m%C3%BCller.pdf",
            "name=\"file\"; filename=\"my name=x.pdf\"",
            "name=\"file\";\r\n filename=\"C:\\scans\\name.pdf\"",
            "name=\"file\"; name-of-file=x",
        ] {
            assert_eq!(judge(name), Ok(()), "{name}");
        }
        for file in [
            "name*",
            "a name\n* 1",
            "<x name=\"\u{e4}\"/>",
            "name=\u{e4}",
        ] {
            assert_eq!(
                guard(file.as_bytes(), &FoldedParameters::default(), |_| false),
                Ok(()),
                "{file}"
            );
        }
    }

    #[test]
    fn guarding_a_form_takes_time_linear_in_its_size() {
        for piece in [
            "=name",
            "name",
            "name ",
            "name=",
            "name*",
            "name'",
            "name;",
            "name\r",
            "name\n ",
            "name=\"",
            "\r\n",
            "\r\n ",
            ";",
            "=",
            "nam",
            "-",
            "disposition",
            "disposition;name=x ",
            "disposition name=",
        ] {
            let looks = |times: usize| {
                LOOKED_AT.set(0);
                let body = piece.repeat(times);
                let _judged = guard(body.as_bytes(), &FoldedParameters::default(), |_| true);
                LOOKED_AT.get()
            };
            let (half, whole) = (looks(1_000), looks(2_000));
            assert!(whole <= 2 * half + 8, "{piece:?}: {half}, then {whole}");
            assert!(whole <= 6 * 2_000 * piece.len(), "{piece:?}: {whole}");
        }
    }
}
