//! Which values of a stage a fault concerns.

use std::fmt;

/// Which values of a stage a fault concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of them.
    #[default]
    Everywhere,
    /// The last row of each batch.
    LastPosition,
    /// The rows behind the last multiple of four in a batch: what a blocked kernel has left over.
    BatchTail,
    /// Batches of one token.
    OneTokenBatches,
    /// The last head.
    OneHead,
    /// The second half of each row: the share of one of two threads.
    OneThread,
    /// The head of this index, counted round.
    Head(usize),
    /// The element of this index, counted round.
    Element(usize),
    /// So many elements at the end of a row: what a kernel has left over.
    LastElements(usize),
    /// Every so many-th element: one lane of a vector.
    EveryNth(usize),
}

impl Scope {
    /// Those without a number.
    const NAMED: [Scope; 6] = [
        Scope::Everywhere,
        Scope::LastPosition,
        Scope::BatchTail,
        Scope::OneTokenBatches,
        Scope::OneHead,
        Scope::OneThread,
    ];

    fn name(self) -> &'static str {
        match self {
            Scope::Everywhere => "everywhere",
            Scope::LastPosition => "last-position",
            Scope::BatchTail => "batch-tail",
            Scope::OneTokenBatches => "one-token-batches",
            Scope::OneHead => "one-head",
            Scope::OneThread => "one-thread",
            Scope::Head(_) => "head",
            Scope::Element(_) => "element",
            Scope::LastElements(_) => "last-elements",
            Scope::EveryNth(_) => "every-nth-element",
        }
    }

    fn number(self) -> Option<usize> {
        match self {
            Scope::Head(n) | Scope::Element(n) | Scope::LastElements(n) | Scope::EveryNth(n) => {
                Some(n)
            }
            _ => None,
        }
    }

    /// The scope of that text form: a name, or `NAME=NUMBER`.
    pub fn named(text: &str) -> Option<Scope> {
        let Some((name, number)) = text.split_once('=') else {
            return Scope::NAMED.into_iter().find(|scope| scope.name() == text);
        };
        let n: usize = number.parse().ok()?;
        Some(match name {
            "head" => Scope::Head(n),
            "element" => Scope::Element(n),
            "last-elements" => Scope::LastElements(n),
            "every-nth-element" if n > 0 => Scope::EveryNth(n),
            _ => return None,
        })
    }

    /// Whether it is about heads.
    pub(super) fn of_heads(self) -> bool {
        matches!(self, Scope::OneHead | Scope::Head(_))
    }

    /// Whether a row of a batch of `n_tokens` belongs.
    pub(super) fn row(self, row: usize, n_tokens: usize) -> bool {
        match self {
            Scope::LastPosition => row + 1 == n_tokens,
            Scope::BatchTail => row >= n_tokens / 4 * 4,
            Scope::OneTokenBatches => n_tokens == 1,
            _ => true,
        }
    }

    /// Whether an element of a row belongs; `heads` are those that the row is made of.
    pub(super) fn element(self, element: usize, width: usize, heads: usize) -> bool {
        match self {
            Scope::OneHead => element >= width / heads * (heads - 1),
            Scope::OneThread => element >= width / 2,
            Scope::Head(head) => element / (width / heads) == head % heads,
            Scope::Element(n) => element == n % width,
            Scope::LastElements(n) => element >= width.saturating_sub(n),
            Scope::EveryNth(n) => element.is_multiple_of(n),
            _ => true,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            None => f.write_str(self.name()),
            Some(n) => write!(f, "{}={n}", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let numbered = [
            Scope::Head(2),
            Scope::Element(77),
            Scope::LastElements(64),
            Scope::EveryNth(32),
        ];
        for scope in Scope::NAMED.into_iter().chain(numbered) {
            assert_eq!(Scope::named(&scope.to_string()), Some(scope));
        }
        for text in [
            "",
            "head",
            "head=",
            "head=x",
            "one-head=1",
            "every-nth-element=0",
        ] {
            assert_eq!(Scope::named(text), None, "{text}");
        }
    }

    #[test]
    fn rows_and_elements() {
        let rows = |scope: Scope, n| (0..n).filter(|&i| scope.row(i, n)).collect::<Vec<_>>();
        assert_eq!(rows(Scope::LastPosition, 6), [5]);
        assert_eq!(rows(Scope::BatchTail, 6), [4, 5]);
        assert!(rows(Scope::BatchTail, 4).is_empty());
        assert!(rows(Scope::OneTokenBatches, 6).is_empty());
        assert_eq!(rows(Scope::OneTokenBatches, 1), [0]);
        assert_eq!(rows(Scope::OneHead, 2), [0, 1]);
        let elements = |scope: Scope| (0..12).filter(move |&i| scope.element(i, 12, 4));
        assert!(elements(Scope::OneHead).eq(9..12));
        assert!(elements(Scope::OneThread).eq(6..12));
        assert!(elements(Scope::Everywhere).eq(0..12));
        assert!(elements(Scope::Head(5)).eq(3..6));
        assert!(elements(Scope::Element(14)).eq(2..3));
        assert!(elements(Scope::LastElements(5)).eq(7..12));
        assert!(elements(Scope::LastElements(64)).eq(0..12));
        assert!(elements(Scope::EveryNth(5)).eq([0, 5, 10]));
    }
}
