//! The fields of an encoded protobuf message, read in place: nothing is copied or allocated.

/// What is left of a message, read from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

// Wire types of the protobuf encoding guide.
pub(super) const VARINT: u64 = 0;
pub(super) const FIXED64: u64 = 1;
pub(super) const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

impl<'a> Fields<'a> {
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// Field number and wire type.
    #[inline]
    pub(super) fn key(&mut self) -> Option<(u64, u64)> {
        let key = self.varint()?;
        // Decoders read keys as 32 bits.
        u32::try_from(key).ok()?;
        Some((key >> 3, key & 7))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Option<u64> {
        // Most keys and lengths are one byte.
        if let Some((&byte, rest)) = self.0.split_first()
            && byte < 0x80
        {
            self.0 = rest;
            return Some(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    pub(super) fn fixed64(&mut self) -> Option<[u8; 8]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Passes over a field that is of no interest. Groups are refused, as they were long given up.
    pub(super) fn skip(&mut self, wire_type: u64) -> Option<()> {
        match wire_type {
            VARINT => self.varint().map(|_| ()),
            FIXED64 => self.fixed64().map(|_| ()),
            LENGTH => self.bytes().map(|_| ()),
            FIXED32 => {
                self.0 = self.0.get(4..)?;
                Some(())
            }
            _ => None,
        }
    }
}
