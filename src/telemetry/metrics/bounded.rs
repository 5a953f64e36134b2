//! Values of labels, of which there may only be so many.
//!
//! Every value of a label is a series of its own, for as long as the process lives and longer in
//! what stores it. Names that clients choose could be any number: the first keep their name, and
//! all others are one.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

/// The value that stands for all that have no place.
pub const OTHER: &str = "_OTHER";

/// A row for each of the first values seen, and one for all others.
#[derive(Debug)]
pub(super) struct Bounded<T> {
    most: usize,
    rows: RwLock<HashMap<Box<str>, Arc<T>>>,
    other: Arc<T>,
}

impl<T> Bounded<T> {
    /// So many values keep their name.
    pub(super) fn new(most: usize, other: T) -> Self {
        Self {
            most,
            rows: RwLock::default(),
            other: Arc::new(other),
        }
    }

    /// The row of a value; `make` is asked where the value is new and has a place.
    pub(super) fn row(&self, value: &str, make: impl FnOnce() -> T) -> Arc<T> {
        {
            let rows = self.rows.read();
            if let Some(row) = rows.get(value) {
                return row.clone();
            }
            if rows.len() >= self.most || value == OTHER {
                return self.other.clone();
            }
        }
        let mut rows = self.rows.write();
        if rows.len() >= self.most && !rows.contains_key(value) {
            return self.other.clone();
        }
        let row = rows.entry(value.into());
        row.or_insert_with(|| Arc::new(make())).clone()
    }

    /// Every row, that of the others last.
    pub(super) fn rows(&self) -> Vec<Arc<T>> {
        let rows = self.rows.read();
        rows.values().chain([&self.other]).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_keep_their_name_and_all_others_are_one() {
        let bounded = Bounded::new(2, OTHER.to_owned());
        let row = |value: &str| bounded.row(value, || value.to_owned()).to_string();
        assert_eq!([row("a"), row("b"), row("c")], ["a", "b", OTHER]);
        assert_eq!([row("a"), row("d"), row("b")], ["a", OTHER, "b"]);
        assert_eq!(bounded.rows().len(), 3);
    }

    #[test]
    fn whoever_is_called_as_the_others_are_is_one_of_them() {
        let bounded = Bounded::new(2, 0);
        assert_eq!(*bounded.row(OTHER, || 1), 0);
        assert_eq!(bounded.rows().len(), 1);
    }

    #[test]
    fn threads_that_bring_new_values_at_once_stay_within_the_bound() {
        let bounded = Bounded::new(10, ());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let bounded = &bounded;
                scope.spawn(move || {
                    for number in 0..100 {
                        bounded.row(&format!("{thread} {number}"), || ());
                    }
                });
            }
        });
        assert_eq!(bounded.rows().len(), 11);
    }
}
