//! The Mandelbrot set, from coarse to fine. Pure: the same view gives the same picture.
//!
//! A pass computes one pixel of each block, a finer one only those that the passes before left
//! out, so that refining costs no pixel twice and the last pass leaves the whole picture.

use std::{
    num::NonZeroUsize,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// The edges of the blocks, pass by pass.
pub(super) const BLOCKS: [usize; 5] = [16, 8, 4, 2, 1];
/// A byte a pixel and what PNG adds must fit into one value of 1 MiB, however badly it compresses.
const MAX_PIXELS: usize = 1_000_000;
/// Beyond this a thin picture's filter bytes, one a row, would add up.
const MAX_EDGE: usize = 4_096;
/// How much of the plane the picture's width shows without zoom.
const PLANE_WIDTH: f64 = 3.5;
/// Iterations move the colour on by so much: few lie between neighbours where little happens.
const SHADES_PER_ITERATION: u64 = 8;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Size {
    pub(super) fn pixels(self) -> usize {
        self.width * self.height
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (width, height) = text.split_once('x')?;
            Some((width.parse().ok()?, height.parse().ok()?))
        };
        let (width, height): (usize, usize) =
            parse().ok_or_else(|| format!("`{text}` is no size; write it like 1024x768"))?;
        let edges = 1..=MAX_EDGE;
        if !edges.contains(&width) || !edges.contains(&height) || width * height > MAX_PIXELS {
            return Err(format!(
                "{text} is not within 1x1 and {MAX_EDGE} pixels an edge, {MAX_PIXELS} in all"
            ));
        }
        Ok(Self { width, height })
    }
}

/// Which part of the plane is shown, and how closely it is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct View {
    pub(super) center_x: f64,
    pub(super) center_y: f64,
    pub(super) zoom: f64,
    pub(super) max_iterations: u32,
}

/// After how many iterations the point is known to lie outside; `None` when it is not by the last.
fn escape(x: f64, y: f64, max_iterations: u32) -> Option<u32> {
    let (mut re, mut im) = (0.0, 0.0);
    for iteration in 0..max_iterations {
        let (re2, im2) = (re * re, im * im);
        if re2 + im2 > 4.0 {
            return Some(iteration);
        }
        im = 2.0 * re * im + y;
        re = re2 - im2 + x;
    }
    None
}

/// What is computed of one pixel: its index in a palette, 0 inside the set; and the iterations.
fn shade(view: &View, size: Size, column: usize, row: usize) -> (u8, u64) {
    let step = PLANE_WIDTH / view.zoom / size.width as f64;
    let from_center = |at: usize, edge: usize| at as f64 + 0.5 - edge as f64 / 2.0;
    let x = view.center_x + from_center(column, size.width) * step;
    let y = view.center_y - from_center(row, size.height) * step;
    match escape(x, y, view.max_iterations) {
        // The remainder is below 255.
        Some(iterations) => {
            let iterations = u64::from(iterations);
            let shade = 1 + (iterations * SHADES_PER_ITERATION % 255) as u8;
            (shade, iterations)
        }
        None => (0, u64::from(view.max_iterations)),
    }
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) pixels: u64,
    pub(super) iterations: u64,
}

/// A picture that is being refined: for each pixel the index of its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) size: Size,
    pub(super) shades: Vec<u8>,
}

impl Picture {
    pub(super) fn new(size: Size) -> Self {
        Self {
            size,
            shades: vec![0; size.pixels()],
        }
    }

    /// The whole picture at once, pixel by pixel.
    pub(super) fn direct(view: &View, size: Size) -> Self {
        let mut picture = Self::new(size);
        picture.rows(1, |row, shades| {
            for (column, pixel) in shades.iter_mut().enumerate() {
                *pixel = shade(view, size, column, row).0;
            }
            true
        });
        picture
    }

    /// One pass of [`BLOCKS`]; the ones before must have been made. `after_row` is told what each
    /// row took, on any thread, and says whether to go on. None when it said no.
    pub(super) fn pass(
        &mut self,
        view: &View,
        pass: usize,
        after_row: impl Fn(Work) -> bool + Sync,
    ) -> Option<Work> {
        let block = BLOCKS[pass];
        let coarser = pass.checked_sub(1).map(|before| BLOCKS[before]);
        let size = self.size;
        let (pixels, iterations) = (AtomicU64::new(0), AtomicU64::new(0));
        let finished = self.rows(block, |row, shades| {
            let known = |column: usize| {
                coarser
                    .is_some_and(|block| row.is_multiple_of(block) && column.is_multiple_of(block))
            };
            let mut work = Work::default();
            for column in (0..size.width)
                .step_by(block)
                .filter(|column| !known(*column))
            {
                let (shade, iterations) = shade(view, size, column, row);
                shades[column] = shade;
                work.pixels += 1;
                work.iterations += iterations;
            }
            pixels.fetch_add(work.pixels, Ordering::Relaxed);
            iterations.fetch_add(work.iterations, Ordering::Relaxed);
            after_row(work)
        });
        finished.then(|| Work {
            pixels: pixels.into_inner(),
            iterations: iterations.into_inner(),
        })
    }

    /// The picture as it is after a pass: each block in the colour of its one pixel.
    pub(super) fn preview(&self, pass: usize) -> Vec<u8> {
        let (block, width) = (BLOCKS[pass], self.size.width);
        let mut shown = Vec::with_capacity(self.shades.len());
        for row in 0..self.size.height {
            let known = &self.shades[row / block * block * width..][..width];
            shown.extend((0..width).map(|column| known[column / block * block]));
        }
        shown
    }

    /// Calls `paint` for every `step`th row, on all processors, until it says no.
    fn rows(&mut self, step: usize, paint: impl Fn(usize, &mut [u8]) -> bool + Sync) -> bool {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let rows = self.shades.chunks_mut(self.size.width).enumerate();
        // Rows differ in what they cost, so each thread takes the next when it is done with one.
        let rows = Mutex::new(rows.step_by(step));
        let refused = Mutex::new(false);
        let work = || {
            loop {
                let next = rows.lock().next();
                let Some((row, shades)) = next else { return };
                if *refused.lock() {
                    return;
                }
                if !paint(row, shades) {
                    *refused.lock() = true;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        !refused.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        center_x: -0.75,
        center_y: 0.0,
        zoom: 1.0,
        max_iterations: 200,
    };
    const SIZE: Size = Size {
        width: 70,
        height: 50,
    };

    fn refined(up_to: usize) -> (Picture, Vec<Work>) {
        let mut picture = Picture::new(SIZE);
        let passes = 0..=up_to;
        let work = passes.map(|pass| picture.pass(&VIEW, pass, |_| true).unwrap());
        let work = work.collect();
        (picture, work)
    }

    #[test]
    fn points_of_the_set_never_escape_and_others_do_after_known_iterations() {
        for (x, y) in [
            (0.0, 0.0),
            (-1.0, 0.0),
            (0.25, 0.0),
            (-2.0, 0.0),
            (0.0, 1.0),
        ] {
            assert_eq!(escape(x, y, 1_000), None, "{x} {y}");
        }
        // 0, 1, 2, 5: the fourth is the first beyond 2.
        assert_eq!(escape(1.0, 0.0, 1_000), Some(3));
        assert_eq!(escape(3.0, 0.0, 1_000), Some(2 - 1));
        assert_eq!(escape(0.26, 0.0, 20), None);
        assert!(escape(0.26, 0.0, 1_000).is_some());
    }

    #[test]
    fn refined_to_the_end_it_is_the_picture_that_is_made_at_once() {
        let (picture, work) = refined(BLOCKS.len() - 1);
        assert_eq!(picture, Picture::direct(&VIEW, SIZE));
        let pixels: u64 = work.iter().map(|work| work.pixels).sum();
        assert_eq!(pixels, SIZE.pixels() as u64, "no pixel twice");
        assert!(work.iter().all(|work| work.iterations >= work.pixels));
        assert!(picture.shades.contains(&0) && picture.shades.iter().any(|shade| *shade > 0));
    }

    #[test]
    fn a_coarse_preview_shows_each_block_in_one_colour() {
        let (picture, _) = refined(1);
        let shown = picture.preview(1);
        assert_eq!(shown.len(), SIZE.pixels());
        let direct = Picture::direct(&VIEW, SIZE);
        for (index, shade) in shown.iter().enumerate() {
            let (row, column) = (index / SIZE.width, index % SIZE.width);
            let corner = row / 8 * 8 * SIZE.width + column / 8 * 8;
            assert_eq!(*shade, direct.shades[corner], "{column} {row}");
        }
    }

    #[test]
    fn the_view_is_symmetric_about_the_real_axis() {
        let picture = Picture::direct(&VIEW, SIZE);
        let rows: Vec<_> = picture.shades.chunks(SIZE.width).collect();
        let mirrored: Vec<_> = rows.iter().rev().copied().collect();
        assert_eq!(rows, mirrored);
    }

    #[test]
    fn a_pass_that_is_told_to_stop_stops() {
        let mut picture = Picture::new(SIZE);
        assert_eq!(picture.pass(&VIEW, 0, |_| false), None);
    }

    #[test]
    fn a_size_is_read_and_one_that_would_not_fit_is_refused_with_the_bounds() {
        let size = Size {
            width: 1024,
            height: 768,
        };
        assert_eq!("1024x768".parse(), Ok(size));
        for wrong in ["1024", "axb", "0x9", "1024x1024", "5000x10", "-1x5"] {
            let error = wrong.parse::<Size>().unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
