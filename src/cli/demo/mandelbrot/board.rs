//! What there is to see of a rendering, taken from the watch of its state.

use indicatif::{HumanBytes, HumanCount};
use serde::de::DeserializeOwned;

use super::{
    paint,
    params::{Keys, Params},
    render::BLOCKS,
};
use crate::client::{Error, StateView, from_value};

/// All of it, as of one revision.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Board {
    /// None where the keys hold what cannot be shown.
    pub(super) params: Option<Params>,
    pub(super) picture: i64,
    pub(super) pass: u64,
    pub(super) progress: f64,
    pub(super) pixels: u64,
    pub(super) iterations: u64,
    /// The last picture that is complete; 0: none is.
    pub(super) complete: i64,
    pub(super) preview_bytes: u64,
    pub(super) problem: Option<String>,
}

/// The keys of one state.
struct InView<'a> {
    view: &'a StateView,
    state: &'a str,
}

impl Keys for InView<'_> {
    fn key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = self
            .view
            .get(self.state, key)
            .and_then(|entry| entry.value());
        let read = value.map(|value| serde_json::from_value(from_value(&value)));
        read.transpose().map_err(|error| {
            let message = format!("key `{key}`: {error}");
            Error::new(
                "WatchState",
                tonic::Code::FailedPrecondition,
                "VALUE_TYPE",
                message,
            )
        })
    }
}

impl Board {
    pub(super) fn of(view: &StateView, state: &str) -> Self {
        let keys = InView { view, state };
        // What is not there yet, or not what it should be, is shown as nothing.
        fn or_none<T: DeserializeOwned>(keys: &InView<'_>, key: &str) -> Option<T> {
            keys.key(key).ok().flatten()
        }
        let preview = view.get(state, paint::PREVIEW);
        let preview_bytes = preview.and_then(|entry| match entry.stub() {
            // Large values are not watched: their size is.
            Some(stub) => u64::try_from(stub.size_bytes).ok(),
            None => entry
                .value()
                .map(|value| prost::Message::encoded_len(&value) as u64),
        });
        Self {
            params: Params::read(&keys).ok(),
            picture: or_none(&keys, paint::PICTURE).unwrap_or_default(),
            pass: or_none(&keys, paint::PASS).unwrap_or_default(),
            progress: or_none(&keys, paint::PROGRESS).unwrap_or_default(),
            pixels: or_none(&keys, paint::PIXELS).unwrap_or_default(),
            iterations: or_none(&keys, paint::ITERATIONS).unwrap_or_default(),
            complete: or_none(&keys, paint::COMPLETE).unwrap_or_default(),
            preview_bytes: preview_bytes.unwrap_or_default(),
            problem: or_none(&keys, paint::PROBLEM),
        }
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let block = match self.pass.checked_sub(1) {
            Some(pass) => BLOCKS.get(pass as usize).copied().unwrap_or(1),
            None => BLOCKS[0],
        };
        let mut line = format!(
            "picture {}, pass {} of {} (blocks of {block}), {:.0} %; {} pixels, {} iterations; preview {}",
            self.picture,
            self.pass,
            BLOCKS.len(),
            self.progress * 100.0,
            HumanCount(self.pixels),
            HumanCount(self.iterations),
            HumanBytes(self.preview_bytes),
        );
        if let Some(params) = &self.params {
            line.push_str(&format!("; {}", place(params)));
        }
        if let Some(problem) = &self.problem {
            line.push_str(&format!("; not taken: {problem}"));
        }
        line
    }
}

/// Where one looks and in which colours.
pub(super) fn place(params: &Params) -> String {
    format!(
        "zoom {} at {} {}, {}",
        params.zoom,
        params.center_x,
        params.center_y,
        params.palette.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_as_nothing() {
        let board = Board::of(&StateView::default(), "mandelbrot");
        let expected = Board {
            params: Some(Params::default()),
            ..Board::default()
        };
        assert_eq!(board, expected);
    }

    #[test]
    fn a_line_has_all_there_is_to_see() {
        let board = Board {
            params: Some(Params::default()),
            picture: 2,
            pass: 4,
            progress: 0.25,
            pixels: 12_345,
            iterations: 99_999,
            complete: 1,
            preview_bytes: 2_048,
            problem: Some("zoom is 0".to_owned()),
        };
        assert_eq!(
            board.line(),
            "picture 2, pass 4 of 5 (blocks of 2), 25 %; 12,345 pixels, 99,999 iterations; \
             preview 2.00 KiB; zoom 1 at -0.75 0, ocean; not taken: zoom is 0"
        );
    }
}
