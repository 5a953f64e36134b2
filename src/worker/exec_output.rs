//! A program's output: cut into lines of bounded length, and its tail kept.

use std::collections::VecDeque;

/// A longer line is taken in pieces.
const MAX_LINE_BYTES: usize = 64 << 10;
/// What is kept of the output.
const TAIL_BYTES: usize = 64 << 10;

/// Cuts bytes into lines, their line feeds included.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            loop {
                let room = MAX_LINE_BYTES - self.begun.len();
                let (now, later) = piece.split_at(room.min(piece.len()));
                self.begun.extend_from_slice(now);
                if self.begun.ends_with(b"\n") || self.begun.len() == MAX_LINE_BYTES {
                    line(&self.begun);
                    self.begun.clear();
                }
                if later.is_empty() {
                    break;
                }
                piece = later;
            }
        }
    }

    /// The last line, where it has no line feed.
    pub(super) fn end(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
            self.begun.clear();
        }
    }
}

/// The last 64 KiB of what was pushed.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    truncated: bool,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = match bytes.len().checked_sub(TAIL_BYTES) {
            Some(excess) if excess > 0 => {
                self.truncated = true;
                &bytes[excess..]
            }
            _ => bytes,
        };
        self.bytes.extend(bytes);
        if let Some(excess) = self
            .bytes
            .len()
            .checked_sub(TAIL_BYTES)
            .filter(|excess| *excess > 0)
        {
            self.truncated = true;
            self.bytes.drain(..excess);
        }
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// What is kept, as text; bytes that are none are replaced.
    pub(super) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes.make_contiguous()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_bytes_come(
            pieces in prop::collection::vec("[ab\n]{0,8}", 0..20)
        ) {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in &pieces {
                lines.push(piece.as_bytes(), |line| seen.push(line.to_vec()));
            }
            lines.end(|line| seen.push(line.to_vec()));
            let whole = pieces.concat();
            let expected: Vec<_> =
                whole.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_line_without_end_is_taken_in_pieces() {
        let mut lines = Lines::default();
        let mut pieces = Vec::new();
        for _ in 0..3 {
            lines.push(&[b'x'; 50 << 10], |line| pieces.push(line.len()));
        }
        lines.end(|line| pieces.push(line.len()));
        assert_eq!(pieces, [64 << 10, 64 << 10, 22 << 10]);
    }

    #[test]
    fn the_tail_is_the_last_64_kib() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; 64 << 10]);
        assert!(!tail.is_truncated());
        tail.push(b"end");
        assert!(tail.is_truncated());
        let text = tail.text();
        assert_eq!(text.len(), 64 << 10);
        assert!(text.ends_with("aend"));
        tail.push(&[b'b'; 100 << 10]);
        assert_eq!(tail.text(), "b".repeat(64 << 10));
    }
}
