//! `duite demo mandelbrot` from outside: it ends by itself, is steered, and what it saves is a PNG.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

/// A folder for the demo's temporary files, and one for what it saves.
struct Stand {
    temp: TempDir,
    saved: TempDir,
}

impl Stand {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            saved: tempfile::tempdir().unwrap(),
        }
    }

    fn out(&self) -> PathBuf {
        self.saved.path().join("picture.png")
    }

    fn demo(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duite"));
        command.args(["demo", "mandelbrot"]).args(arguments);
        command.env("TMPDIR", self.temp.path());
        command.env_remove("DUITE_LOG");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn nothing_is_left(&self) {
        let temp = self.temp.path().to_str().unwrap();
        let left: Vec<_> = fs::read_dir(temp).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            assert!(!command.contains(temp), "left behind: {command}");
        }
    }

    /// Size and palette of what was saved.
    fn picture(&self) -> ((u32, u32), Vec<u8>) {
        let decoder = png::Decoder::new(BufReader::new(fs::File::open(self.out()).unwrap()));
        let reader = decoder.read_info().unwrap();
        let info = reader.info();
        (info.size(), info.palette.as_deref().unwrap().to_vec())
    }
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{text}\n{errors}",
        output.status
    );
    text
}

#[test]
fn it_ends_by_itself_and_saves_the_picture_that_it_rendered() {
    let stand = Stand::new();
    let out = stand.out();
    let arguments = [
        "--size",
        "160x120",
        "--time",
        "1s",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = succeeded(&stand.demo(&arguments).wait_with_output().unwrap());
    assert!(
        output.contains("equal to the picture rendered at once"),
        "{output}"
    );
    assert!(output.contains("pictures of 160x120"), "{output}");
    assert!(
        output.contains("saved with: duite state get --addr "),
        "{output}"
    );
    assert!(!output.contains('\x1b'), "no colour without a terminal");
    let (size, palette) = stand.picture();
    assert_eq!((size, palette.len()), ((160, 120), 256 * 3));
    stand.nothing_is_left();
}

#[test]
fn a_parameter_that_is_set_while_it_runs_is_in_the_picture() {
    let stand = Stand::new();
    let out = stand.out();
    let arguments = [
        "--size",
        "160x120",
        "--time",
        "1h",
        "--out",
        out.to_str().unwrap(),
    ];
    let mut demo = stand.demo(&arguments);
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    let mut said = String::new();
    let mut until = |what: &str, said: &mut String| {
        while !said.contains(what) {
            assert_ne!(output.read_line(said).unwrap(), 0, "{said}");
        }
    };
    until("progress: ", &mut said);
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("server at "));
    let address = line
        .and_then(|rest| rest.split(',').next())
        .unwrap()
        .to_owned();
    let set = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duite"));
        command.args(["state", "set", "--addr", &address, "mandelbrot"]);
        let set = command.args(words).output().unwrap();
        assert!(set.status.success(), "{set:?}");
    };
    set(&["palette=pink"]);
    until("not taken: palette is `pink`", &mut said);
    set(&["palette=gray", "zoom=3"]);
    set(&["done=true"]);
    output.read_to_string(&mut said).unwrap();
    said.push_str(&succeeded(&demo.wait_with_output().unwrap()));
    assert!(said.contains("someone steers: the tour ends"), "{said}");
    assert!(said.contains("the last: zoom 3 at -0.75 0, gray"), "{said}");
    let (_, palette) = stand.picture();
    assert!(
        palette
            .as_chunks::<3>()
            .0
            .iter()
            .all(|[red, green, blue]| red == green && green == blue)
    );
    stand.nothing_is_left();
}

#[test]
fn what_cannot_be_done_is_said_before_anything_starts() {
    for (arguments, code, problem) in [
        (["--size", "5000x5000"], 2, "5000x5000 is not within"),
        (["--time", "1d"], 2, "between 100ms and 1h"),
        (["--out", "/nonexistent/a.png"], 1, "/nonexistent/a.png"),
    ] {
        let stand = Stand::new();
        let output = stand.demo(&arguments).wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(problem), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}
