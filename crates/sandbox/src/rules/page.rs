//! Pages of lists.

use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The requested part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListPage {
    /// Counted from 1.
    pub(crate) number: usize,
    size: usize,
}

impl ListPage {
    /// Reads the page number and size. The defaults are page 1 and 20 elements, as the account list documents
    /// (protocol.md 6); other lists document none.
    pub(crate) fn asked(
        asked: &RequestParameters,
        number: &'static str,
        size: &'static str,
    ) -> Result<Self, ApiFailure> {
        let between = |name, least: usize, most: usize, default| match asked.optional_time(name)? {
            None => Ok(default),
            Some(value) => usize::try_from(value)
                .ok()
                .filter(|value| (least..=most).contains(value))
                .ok_or(ApiFailure::Malformed(name)),
        };
        Ok(Self {
            number: between(number, 1, 1_000_000, 1)?,
            size: between(size, 1, 200, 20)?,
        })
    }

    /// The elements of `list` on this page.
    pub(crate) fn of<'l, T>(&self, list: &'l [T]) -> &'l [T] {
        let start = self.end() - self.size;
        list.get(start..)
            .map_or(&[], |rest| &rest[..rest.len().min(self.size)])
    }

    /// The number of elements on this page and all pages before it.
    pub(crate) fn end(&self) -> usize {
        self.number * self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(json: &str) -> Result<ListPage, ApiFailure> {
        ListPage::asked(
            &RequestParameters::parse(json.as_bytes()).unwrap(),
            "page",
            "count",
        )
    }

    #[test]
    fn a_list_is_cut_into_pages() {
        let list: Vec<_> = (0..25).collect();
        assert_eq!(page("{}").unwrap().of(&list), &list[..20]);
        assert_eq!(page(r#"{"page":2}"#).unwrap().of(&list), &list[20..]);
        assert_eq!(page(r#"{"page":3}"#).unwrap().of(&list), &list[25..]);
        let second = page(r#"{"page":"2","count":"2"}"#).unwrap();
        assert_eq!((second.of(&list), second.end()), (&list[2..4], 4));
        assert_eq!(
            page(r#"{"count":201}"#),
            Err(ApiFailure::Malformed("count"))
        );
        assert_eq!(page(r#"{"page":-1}"#), Err(ApiFailure::Malformed("page")));
    }
}
