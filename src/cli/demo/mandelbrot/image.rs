//! A picture as a PNG: one byte a pixel and a palette.

use std::io::Cursor;

use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Transformations};

use super::{
    palette::Colour,
    render::{Picture, Size},
};

/// What a PNG of ours holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) picture: Picture,
    pub(super) colours: Vec<Colour>,
}

/// The PNG of `shades`, one for each pixel.
///
/// # Errors
///
/// When there are more or fewer shades than pixels.
pub(super) fn encode(
    size: Size,
    shades: &[u8],
    colours: &[Colour],
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let edge = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
    let mut encoder = Encoder::new(&mut bytes, edge(size.width), edge(size.height));
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(colours.as_flattened());
    // It is made anew with every pass.
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(shades)?;
    writer.finish()?;
    Ok(bytes)
}

/// Reads a PNG as `encode` makes them; what is wrong with it otherwise.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    let read = |error: png::DecodingError| error.to_string();
    let mut reader = decoder.read_info().map_err(read)?;
    let info = reader.info();
    if (info.color_type, info.bit_depth) != (ColorType::Indexed, BitDepth::Eight) {
        return Err(format!(
            "{:?} pixels of {:?} bits",
            info.color_type, info.bit_depth
        ));
    }
    let size = Size {
        width: info.width as usize,
        height: info.height as usize,
    };
    let palette = info.palette.as_deref().unwrap_or_default();
    let colours = palette.as_chunks::<3>().0.to_vec();
    let length = reader.output_buffer_size().ok_or("it is too large")?;
    let mut shades = vec![0; length];
    reader.next_frame(&mut shades).map_err(read)?;
    Ok(Decoded {
        picture: Picture { size, shades },
        colours,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::palette::Palette, *};

    #[test]
    fn what_is_encoded_is_decoded_again() {
        let size = Size {
            width: 300,
            height: 7,
        };
        let shades = (0..size.pixels())
            .map(|index| (index % 251) as u8)
            .collect();
        let picture = Picture { size, shades };
        let colours = Palette::Ocean.colours();
        let bytes = encode(size, &picture.shades, &colours).unwrap();
        assert!(bytes.starts_with(b"\x89PNG\r\n"));
        assert_eq!(decode(&bytes), Ok(Decoded { picture, colours }));
        assert!(decode(&bytes[..bytes.len() / 2]).is_err());
        assert!(decode(b"GIF89a").is_err());
    }

    #[test]
    fn a_picture_that_does_not_compress_still_fits_into_a_value() {
        let size: Size = "1000x1000".parse().unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..size.pixels()).map(|_| random.u8(..)).collect();
        let bytes = encode(size, &noise, &Palette::Fire.colours()).unwrap();
        // As much as the API takes: 1 MiB less its envelope.
        assert!(bytes.len() <= (1 << 20) - (1 << 10) - 64, "{}", bytes.len());
    }

    #[test]
    fn too_few_pixels_are_an_error() {
        let size = Size {
            width: 3,
            height: 3,
        };
        assert!(encode(size, &[0; 8], &Palette::Gray.colours()).is_err());
    }
}
