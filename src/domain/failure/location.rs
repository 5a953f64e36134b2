//! Where a failure was raised: the innermost frame of the task's own code.
//!
//! It must be the same on every machine and after every build that does not change the code. So it has
//! no folder, no line number, no address, and a function goes by its name without what compilers add:
//! closures are their function's, generics have no arguments.

mod go;
mod java;
mod node;
mod python;
mod rust;

use super::boundary;
use crate::domain::task::Failure;

/// A longer one is cut.
const MAX_BYTES: usize = 256;

/// A frame of a stack trace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    /// Without its folder; empty: the trace does not say.
    file: String,
    /// Empty: the trace does not say.
    function: String,
    /// Of the task's own code, not of a library or the language.
    own: bool,
}

impl Frame {
    /// As `file:function`, or what is known of the two.
    fn text(&self) -> String {
        let colon = if self.file.is_empty() || self.function.is_empty() {
            ""
        } else {
            ":"
        };
        let mut text = format!("{}{colon}{}", self.file, self.function);
        text.truncate(boundary(&text, MAX_BYTES));
        text
    }
}

/// The innermost frame of the task's own code: as the failure says, else as its stack trace shows,
/// else the innermost frame of all. Empty: not known.
#[must_use]
pub fn location(failure: &Failure) -> String {
    if !failure.location.is_empty() {
        return failure.location.clone();
    }
    let frames = frames(&failure.stack_trace);
    let own = frames.iter().find(|frame| frame.own);
    own.or(frames.first()).map_or_else(String::new, Frame::text)
}

/// A stack trace as one language reads it.
#[derive(Debug, Default)]
struct Reading {
    /// Innermost first.
    frames: Vec<Frame>,
    /// Frames that were found, with those that do not count.
    found: usize,
}

impl Reading {
    fn push(&mut self, frame: Frame) {
        self.found += 1;
        self.frames.push(frame);
    }

    fn of(frames: impl Iterator<Item = Frame>) -> Self {
        let frames: Vec<_> = frames.collect();
        Self {
            found: frames.len(),
            frames,
        }
    }
}

/// The frames of a stack trace, innermost first, as the language reads it that finds most.
fn frames(stack: &str) -> Vec<Frame> {
    let readings = [
        python::read(stack),
        rust::read(stack),
        go::read(stack),
        java::read(stack),
        node::read(stack),
    ];
    // Of equals the first.
    let best = readings.into_iter().rev().max_by_key(|one| one.found);
    best.unwrap_or_default().frames
}

/// The last segment of a path or URL.
fn file_name(path: &str) -> &str {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Without what follows the colons: line and column, as far as they are numbers.
fn without_numbers(place: &str) -> &str {
    let mut rest = place;
    while let Some((before, number)) = rest.rsplit_once(':')
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        rest = before;
    }
    rest
}

/// Without everything between a pair of brackets, nested ones included; none where they do not
/// match.
fn without_brackets(text: &str, open: char, close: char) -> Option<String> {
    let mut depth = 0_usize;
    let mut kept = String::with_capacity(text.len());
    for character in text.chars() {
        if character == open {
            depth += 1;
        } else if character == close {
            depth = depth.checked_sub(1)?;
        } else if depth == 0 {
            kept.push(character);
        }
    }
    (depth == 0).then_some(kept)
}

#[cfg(test)]
mod tests;
