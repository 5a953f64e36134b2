//! The colours of a picture: one for the inside, 255 that go round for the outside.

use serde::{Deserialize, Serialize};

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// What people choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Palette {
    Fire,
    Ocean,
    Gray,
}

impl Palette {
    /// All, as they are written.
    pub(super) const NAMES: [(&str, Self); 3] = [
        ("fire", Self::Fire),
        ("ocean", Self::Ocean),
        ("gray", Self::Gray),
    ];

    pub(super) fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, palette)| *palette == self);
        found.map_or("fire", |(name, _)| name)
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let mut names = Self::NAMES.iter();
        names
            .find(|(known, _)| *known == name)
            .map(|(_, palette)| *palette)
    }

    /// The colour of each index: 0 is black, the inside.
    pub(super) fn colours(self) -> Vec<Colour> {
        let outside = (0..255).map(|step| between(self.stops(), step));
        std::iter::once([0, 0, 0]).chain(outside).collect()
    }

    /// Colours at even distances; after the last comes the first again.
    fn stops(self) -> &'static [Colour] {
        match self {
            Self::Fire => &[
                [16, 0, 8],
                [160, 16, 0],
                [255, 140, 0],
                [255, 255, 200],
                [200, 60, 0],
            ],
            Self::Ocean => &[[0, 7, 60], [32, 107, 203], [237, 255, 255], [0, 170, 160]],
            Self::Gray => &[[24, 24, 24], [250, 250, 250]],
        }
    }
}

/// The colour at `step` of 255 on the way round, in whole numbers, so that it is the same anywhere.
fn between(stops: &[Colour], step: usize) -> Colour {
    let at = step * stops.len();
    let (stop, part) = (at / 255, at % 255);
    let (from, to) = (stops[stop], stops[(stop + 1) % stops.len()]);
    std::array::from_fn(|channel| {
        let (from, to) = (usize::from(from[channel]), usize::from(to[channel]));
        // A mean of two bytes is a byte.
        ((from * (255 - part) + to * part) / 255) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_palette_has_256_colours_with_black_for_the_inside() {
        for (name, palette) in Palette::NAMES {
            let colours = palette.colours();
            assert_eq!((colours.len(), colours[0]), (256, [0, 0, 0]), "{name}");
            assert!(
                colours[1..].iter().all(|colour| *colour != [0, 0, 0]),
                "{name}"
            );
            assert_eq!(
                (palette.name(), Palette::named(name)),
                (name, Some(palette))
            );
        }
        assert_eq!(Palette::named("pink"), None);
    }

    #[test]
    fn a_palette_goes_from_stop_to_stop_and_round() {
        let gray = Palette::Gray.colours();
        assert_eq!(gray[1], [24, 24, 24]);
        // The other end lies in the middle, and the way back is as long.
        assert!(gray[128][0] >= 249, "{:?}", gray[128]);
        assert!(gray[255][0] <= 26, "{:?}", gray[255]);
        assert!(
            gray.iter()
                .all(|[red, green, blue]| red == green && green == blue)
        );
    }
}
