//! What a rendering can be steered with, and the places that the demo visits by itself.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{palette::Palette, render::View};
use crate::client::{Error, Update};

pub(super) const CENTER_X: &str = "center_x";
pub(super) const CENTER_Y: &str = "center_y";
pub(super) const ZOOM: &str = "zoom";
pub(super) const MAX_ITERATIONS: &str = "max_iterations";
pub(super) const PALETTE: &str = "palette";
/// True ends the rendering with the picture at hand.
pub(super) const DONE: &str = "done";
/// All of them.
pub(super) const KEYS: [&str; 6] = [CENTER_X, CENTER_Y, ZOOM, MAX_ITERATIONS, PALETTE, DONE];

/// What is shown and how. A key that is not set has its default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Params {
    pub(super) center_x: f64,
    pub(super) center_y: f64,
    pub(super) zoom: f64,
    pub(super) max_iterations: u32,
    pub(super) palette: Palette,
}

impl Default for Params {
    fn default() -> Self {
        TOUR[0]
    }
}

/// Where the demo goes as long as nobody steers.
pub(super) const TOUR: [Params; 4] = [
    Params {
        center_x: -0.75,
        center_y: 0.0,
        zoom: 1.0,
        max_iterations: 1_000,
        palette: Palette::Ocean,
    },
    // The valley between the two largest disks.
    Params {
        center_x: -0.7463,
        center_y: 0.1102,
        zoom: 300.0,
        max_iterations: 1_000,
        palette: Palette::Fire,
    },
    // The edge of a small copy of the whole, in the spike.
    Params {
        center_x: -1.768_778_833,
        center_y: 0.001_738_996,
        zoom: 20_000.0,
        max_iterations: 2_000,
        palette: Palette::Ocean,
    },
    // A spiral deep in the valley.
    Params {
        center_x: -0.743_643_887_037,
        center_y: 0.131_825_904_205,
        zoom: 40_000.0,
        max_iterations: 3_000,
        palette: Palette::Fire,
    },
];

impl Params {
    /// Reads each key with `get`. What is wrong, for people, where a value makes no sense.
    pub(super) fn read(get: &impl Keys) -> Result<Self, String> {
        let default = Self::default();
        let name: Option<String> = get.key(PALETTE).map_err(wrong)?;
        let palette = name.map_or(Ok(default.palette), |name| {
            Palette::named(&name).ok_or_else(|| {
                let known = Palette::NAMES.map(|(name, _)| name);
                format!("{PALETTE} is `{name}`: it can be {}", known.join(", "))
            })
        })?;
        Ok(Self {
            center_x: within(get, CENTER_X, default.center_x, -3.0, 3.0)?,
            center_y: within(get, CENTER_Y, default.center_y, -3.0, 3.0)?,
            // Beyond 1e12 neighbouring pixels are the same number.
            zoom: within(get, ZOOM, default.zoom, 0.1, 1e12)?,
            max_iterations: within(
                get,
                MAX_ITERATIONS,
                f64::from(default.max_iterations),
                1.0,
                10_000.0,
            )? as u32,
            palette,
        })
    }

    pub(super) fn view(&self) -> View {
        View {
            center_x: self.center_x,
            center_y: self.center_y,
            zoom: self.zoom,
            max_iterations: self.max_iterations,
        }
    }

    /// What sets all of them.
    pub(super) fn updates(&self) -> [Update; 5] {
        [
            Update::put(CENTER_X, self.center_x),
            Update::put(CENTER_Y, self.center_y),
            Update::put(ZOOM, self.zoom),
            Update::put(MAX_ITERATIONS, i64::from(self.max_iterations)),
            Update::put(PALETTE, self.palette.name()),
        ]
    }
}

/// Where keys are read from.
pub(super) trait Keys {
    /// The key's value; none where it is not set.
    fn key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error>;
}

impl Keys for crate::client::Changes {
    fn key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.try_get(key)
    }
}

/// A number between the two.
fn within(get: &impl Keys, key: &str, default: f64, least: f64, most: f64) -> Result<f64, String> {
    let number = get.key(key).map_err(wrong)?.unwrap_or(default);
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(format!(
        "{key} is {number}: it can be from {least} to {most}"
    ))
}

fn wrong(error: Error) -> String {
    error.message().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    struct Map(BTreeMap<&'static str, Value>);

    impl Keys for Map {
        fn key<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
            let value = self.0.get(key).cloned();
            let read = value.map(serde_json::from_value).transpose();
            read.map_err(|error| {
                let message = format!("key `{key}`: {error}");
                Error::new(
                    "test",
                    tonic::Code::FailedPrecondition,
                    "VALUE_TYPE",
                    message,
                )
            })
        }
    }

    fn read(keys: &[(&'static str, Value)]) -> Result<Params, String> {
        Params::read(&Map(keys.iter().cloned().collect()))
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        assert_eq!(read(&[]), Ok(Params::default()));
        let params = read(&[(ZOOM, json!(4)), (PALETTE, json!("gray"))]).unwrap();
        let expected = Params {
            zoom: 4.0,
            palette: Palette::Gray,
            ..Params::default()
        };
        assert_eq!(params, expected);
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_value_and_what_would() {
        for (key, value, problem) in [
            (
                ZOOM,
                json!(0),
                "zoom is 0: it can be from 0.1 to 1000000000000",
            ),
            (
                PALETTE,
                json!("pink"),
                "palette is `pink`: it can be fire, ocean, gray",
            ),
            (CENTER_X, json!("left"), "key `center_x`: "),
            (MAX_ITERATIONS, json!(20_000), "it can be from 1 to 10000"),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn every_place_of_the_tour_is_one_that_can_be_set() {
        for place in TOUR {
            let keys = [
                (CENTER_X, json!(place.center_x)),
                (CENTER_Y, json!(place.center_y)),
                (ZOOM, json!(place.zoom)),
                (MAX_ITERATIONS, json!(place.max_iterations)),
                (PALETTE, json!(place.palette.name())),
            ];
            assert_eq!(read(&keys), Ok(place));
            assert_eq!(place.updates().len(), keys.len());
        }
    }
}
