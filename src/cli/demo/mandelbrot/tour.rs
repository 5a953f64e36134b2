//! Goes from place to place, as long as nobody else steers.

use std::time::{Duration, Instant};

use super::{
    board::Board,
    params::{Params, TOUR},
};

#[derive(Debug)]
pub(super) struct Tour {
    begun: Instant,
    /// Each place gets so long, and at least until its picture is complete.
    each: Duration,
    place: usize,
    /// The picture that was shown when the place was set; a later one shows the place.
    before: i64,
    /// The watch shows what was set from this revision on.
    set_at: i64,
    over: bool,
}

/// What the tour does next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Stay,
    Go(Params),
    /// Someone has steered: said once.
    Leave,
}

impl Tour {
    /// The first place was set at revision `set_at`.
    pub(super) fn new(time: Duration, set_at: i64, begun: Instant) -> Self {
        Self {
            begun,
            each: time / TOUR.len() as u32,
            place: 0,
            before: 0,
            set_at,
            over: false,
        }
    }

    /// What to do when the watch has reached `revision` and shows `board`.
    pub(super) fn step(&mut self, board: &Board, revision: i64, now: Instant) -> Step {
        if self.over || revision < self.set_at {
            return Step::Stay;
        }
        if board.params != Some(TOUR[self.place]) {
            self.over = true;
            return Step::Leave;
        }
        let seen = board.complete > self.before;
        let due = now.duration_since(self.begun) >= self.each * (self.place as u32 + 1);
        let Some(next) = TOUR.get(self.place + 1).filter(|_| seen && due) else {
            return Step::Stay;
        };
        self.place += 1;
        self.before = board.picture;
        // Until `set` says when.
        self.set_at = i64::MAX;
        Step::Go(*next)
    }

    /// The step's parameters were set at `revision`.
    pub(super) fn set(&mut self, revision: i64) {
        self.set_at = revision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(place: usize, picture: i64, is_complete: bool) -> Board {
        Board {
            params: Some(TOUR[place]),
            picture,
            complete: if is_complete { picture } else { picture - 1 },
            ..Board::default()
        }
    }

    #[test]
    fn a_place_is_left_when_its_time_is_over_and_its_picture_complete() {
        let begun = Instant::now();
        let mut tour = Tour::new(Duration::from_secs(8), 5, begun);
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(tour.step(&board(0, 1, true), 6, after(1)), Step::Stay);
        assert_eq!(tour.step(&board(0, 1, false), 7, after(3)), Step::Stay);
        assert_eq!(
            tour.step(&board(0, 1, true), 8, after(3)),
            Step::Go(TOUR[1])
        );
        // The watch still shows the place before.
        assert_eq!(tour.step(&board(0, 1, true), 8, after(5)), Step::Stay);
        tour.set(9);
        assert_eq!(tour.step(&board(0, 1, true), 8, after(5)), Step::Stay);
        // The picture is still the one before.
        assert_eq!(tour.step(&board(1, 1, true), 9, after(5)), Step::Stay);
        assert_eq!(
            tour.step(&board(1, 2, true), 10, after(5)),
            Step::Go(TOUR[2])
        );
    }

    #[test]
    fn after_the_last_place_it_stays() {
        let begun = Instant::now();
        let mut tour = Tour::new(Duration::ZERO, 0, begun);
        for place in 1..TOUR.len() {
            let shown = board(place - 1, place as i64, true);
            assert_eq!(tour.step(&shown, 0, begun), Step::Go(TOUR[place]));
            tour.set(0);
        }
        let last = board(TOUR.len() - 1, 9, true);
        assert_eq!(tour.step(&last, 0, begun), Step::Stay);
    }

    #[test]
    fn it_ends_when_someone_steers() {
        let begun = Instant::now();
        let mut tour = Tour::new(Duration::ZERO, 5, begun);
        let elsewhere = board(2, 1, true);
        assert_eq!(tour.step(&elsewhere, 4, begun), Step::Stay);
        assert_eq!(tour.step(&elsewhere, 5, begun), Step::Leave);
        assert_eq!(tour.step(&board(0, 2, true), 6, begun), Step::Stay);
    }
}
