//! Paths as text and back: JSON has no bytes, and a file's name is any bytes.

use std::{
    borrow::Cow,
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The path as text: what is UTF-8 stands as it is, but for `%` and other bytes, which are `%` and
/// two hex digits.
pub(super) fn encode(path: &Path) -> String {
    let bytes = to_bytes(path);
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// What [`encode`] was given. None for text that it would not give.
pub(super) fn decode(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    Some(PathBuf::from(from_bytes(bytes)?))
}

#[cfg(unix)]
pub(super) fn to_bytes(path: &Path) -> Cow<'_, [u8]> {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes().into()
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> Option<OsString> {
    use std::os::unix::ffi::OsStringExt as _;
    Some(OsString::from_vec(bytes))
}

/// Elsewhere names are text, and `sha256sum` wants slashes.
#[cfg(not(unix))]
pub(super) fn to_bytes(path: &Path) -> Cow<'_, [u8]> {
    let text = path.to_string_lossy();
    text.replace(std::path::MAIN_SEPARATOR, "/")
        .into_bytes()
        .into()
}

#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> Option<OsString> {
    String::from_utf8(bytes).ok().map(OsString::from)
}

#[cfg(all(test, unix))]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use super::*;

    #[test]
    fn any_name_comes_back_as_it_was() {
        for name in [
            &b"plain/name.txt"[..],
            b"100%",
            b"%41",
            b"sp ace\nline\\back\rcr",
            b"latin1-\xe9-\xff",
            "ünï/→".as_bytes(),
        ] {
            let path = Path::new(OsStr::from_bytes(name));
            assert_eq!(decode(&encode(path)).unwrap(), path);
        }
        assert_eq!(encode(Path::new(OsStr::from_bytes(b"a%\xff"))), "a%25%FF");
    }

    #[test]
    fn text_that_is_no_encoded_path_is_refused() {
        for text in ["%", "%4", "%zz", "a%é"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
