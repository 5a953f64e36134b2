//! A part of the terminal that is drawn again and again.

use std::io;

use console::{Term, truncate_str};

use super::Error;

/// Text that takes the place of what it drew before.
#[derive(Debug)]
pub(super) struct Live {
    term: Term,
    lines: usize,
}

impl Live {
    /// On standard output, where that is a terminal.
    pub(super) fn on_terminal() -> Option<Self> {
        let term = Term::buffered_stdout();
        term.is_term().then_some(Self { term, lines: 0 })
    }

    /// Draws `text`, as much of it as fits.
    pub(super) fn draw(&mut self, text: &str) -> Result<(), Error> {
        let written = self.write(text);
        written.map_err(|error| Error::failed(format!("cannot write to the terminal: {error}")))
    }

    /// Says something beneath what is drawn; the next drawing starts below it.
    pub(super) fn note(&mut self, text: &str) {
        eprintln!("{text}");
        self.lines = 0;
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let (height, width) = self.term.size();
        let room = usize::from(height.max(3)) - 2;
        self.term.clear_last_lines(self.lines)?;
        self.lines = 0;
        for line in text.lines().take(room) {
            self.term
                .write_line(&truncate_str(line, usize::from(width), "…"))?;
            self.lines += 1;
        }
        let hidden = text.lines().count() - self.lines;
        if hidden > 0 {
            self.term.write_line(&format!("… {hidden} more"))?;
            self.lines += 1;
        }
        self.term.flush()
    }
}
