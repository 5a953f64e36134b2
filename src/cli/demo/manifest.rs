//! The manifest, in the format that `sha256sum` writes and checks.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use super::{Error, path};

/// Writes one line. As GNU does it, a name with a backslash or a line's end in it is escaped, and
/// the line then begins with a backslash.
pub(super) fn line(sha256: &str, relative: &Path) -> Vec<u8> {
    let name = path::to_bytes(relative);
    let mut line = Vec::with_capacity(sha256.len() + name.len() + 4);
    if name
        .iter()
        .any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'))
    {
        line.push(b'\\');
    }
    line.extend_from_slice(sha256.as_bytes());
    line.extend_from_slice(b"  ");
    // A `-` alone would be standard input.
    if *name == *b"-" {
        line.extend_from_slice(b"./");
    }
    for byte in name.iter() {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

/// Writes the manifest to `wanted`, or to a new file in `folder`. It appears whole or not at all.
pub(super) fn write<'a>(
    lines: impl IntoIterator<Item = (&'a str, &'a Path)>,
    wanted: Option<&Path>,
    folder: &Path,
) -> Result<PathBuf, Error> {
    let parent = match wanted {
        Some(wanted) => parent_of(wanted),
        None => folder,
    };
    let failed = |source| {
        Error::io(
            format!("write the manifest in {}", parent.display()),
            source,
        )
    };
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix("duite-demo-").suffix(".sha256");
    let file = file.tempfile_in(parent).map_err(failed)?;
    let mut writer = BufWriter::new(file);
    for (sha256, path) in lines {
        writer.write_all(&line(sha256, path)).map_err(failed)?;
    }
    let file = writer
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    match wanted {
        Some(wanted) => {
            file.persist(wanted)
                .map_err(|error| Error::io(format!("write {}", wanted.display()), error.error))?;
            Ok(wanted.to_owned())
        }
        None => {
            let (_, path): (File, PathBuf) = file.keep().map_err(|error| failed(error.error))?;
            Ok(path)
        }
    }
}

/// Where the manifest is wanted, made absolute; it must not be a part of what it describes.
pub(super) fn wanted(wanted: &Path, root: &Path) -> Result<PathBuf, Error> {
    let parent = parent_of(wanted);
    let folder = parent
        .canonicalize()
        .map_err(|source| Error::io(format!("find the folder {}", parent.display()), source))?;
    let name = wanted.file_name();
    let path = name.map_or_else(|| folder.clone(), |name| folder.join(name));
    if path.starts_with(root) {
        let root = root.to_owned();
        return Err(Error::ManifestInside { path, root });
    }
    Ok(path)
}

fn parent_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(all(test, unix))]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, process::Command};

    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const NAMES: [&[u8]; 10] = [
        b"plain",
        b" leading and trailing ",
        b"*star",
        b"back\\slash",
        b"new\nline",
        b"tab\tand \x01",
        b"latin1-\xe9",
        b"-",
        b"--check",
        b"\\",
    ];

    #[test]
    fn odd_names_are_escaped_as_gnu_does_it() {
        let text = |name: &str| String::from_utf8(line("00", Path::new(name))).unwrap();
        assert_eq!(text("a b"), "00  a b\n");
        assert_eq!(text("a\\b"), "\\00  a\\\\b\n");
        assert_eq!(text("a\nb\rc"), "\\00  a\\nb\\rc\n");
        assert_eq!(text("-"), "00  ./-\n");
    }

    #[test]
    fn sha256sum_writes_the_same_and_accepts_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        for name in NAMES {
            fs::write(folder.path().join(OsStr::from_bytes(name)), "").unwrap();
        }
        let paths = NAMES.map(|name| Path::new(OsStr::from_bytes(name)));
        let lines = paths.iter().map(|path| (EMPTY, *path));
        let manifest = write(lines, None, out.path()).unwrap();
        let sha256sum = |arguments: &[&OsStr]| {
            let mut command = Command::new("sha256sum");
            command.current_dir(folder.path()).args(arguments).output()
        };
        let Ok(checked) = sha256sum(&["--check".as_ref(), manifest.as_os_str()]) else {
            eprintln!("sha256sum is not there: nothing to compare with");
            return;
        };
        assert!(checked.status.success(), "{checked:?}");
        for (path, name) in paths.iter().zip(NAMES) {
            if name != b"-" {
                let own = sha256sum(&["--".as_ref(), path.as_os_str()]).unwrap();
                assert_eq!(own.stdout, line(EMPTY, path));
            }
        }
    }

    #[test]
    fn a_manifest_inside_the_tree_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        let error = wanted(&root.join("sub/manifest"), &root).unwrap_err();
        assert!(matches!(error, Error::ManifestInside { .. }), "{error}");
        let outside = wanted(&root.join("sub/../m"), &root.join("sub")).unwrap();
        assert_eq!(outside, root.join("m"));
    }
}
