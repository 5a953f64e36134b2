//! `duite demo` from outside: the real binary on a tree of odd names, with its manifest checked by
//! `sha256sum` and nothing left behind.

#![cfg(target_os = "linux")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

const ODD: [&[u8]; 9] = [
    b"with space",
    b" leading",
    b"new\nline",
    b"back\\slash",
    b"carriage\rreturn",
    b"latin1-\xe9",
    b"percent%41",
    b"*star",
    b"-",
];

/// A tree outside git, and a folder for the demo's temporary files.
struct Stand {
    tree: TempDir,
    temp: TempDir,
}

impl Stand {
    fn new() -> Self {
        let stand = Self {
            tree: tempfile::tempdir().unwrap(),
            temp: tempfile::tempdir().unwrap(),
        };
        let root = stand.tree.path();
        for folder in [OsStr::from_bytes(b"d\xff"), OsStr::new("plain")] {
            fs::create_dir(root.join(folder)).unwrap();
            for index in 0..40 {
                let name = root.join(folder).join(format!("{index}.txt"));
                fs::write(name, "x".repeat(index * 1000)).unwrap();
            }
        }
        for name in ODD {
            fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
        }
        fs::write(root.join(".gitignore"), "ignored/\n").unwrap();
        fs::create_dir(root.join("ignored")).unwrap();
        fs::write(root.join("ignored/file"), "no").unwrap();
        std::os::unix::fs::symlink("plain", root.join("link")).unwrap();
        stand
    }

    /// 40 and 40 in the folders, the odd ones, and `.gitignore`.
    const FILES: usize = 81 + ODD.len();

    fn demo(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duite"));
        command.arg("demo").arg("--path").arg(self.tree.path());
        command.args(arguments).env("TMPDIR", self.temp.path());
        command.env_remove("DUITE_LOG");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn accepted_by_sha256sum(&self, manifest: &str) {
        let mut command = Command::new("sha256sum");
        command.arg("--strict").arg("-c").arg(manifest);
        let checked = command.current_dir(self.tree.path()).output();
        let checked = checked.expect("coreutils are there");
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(bytecount(&checked.stdout), Self::FILES);
    }

    /// No process has the folder or the server's address in its command line.
    fn nothing_runs(&self, output: &str) {
        let address = address(output);
        let temp = self.temp.path().to_str().unwrap();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let ours = command.contains("duite") && !command.contains(" demo ");
            assert!(
                !ours || !(command.contains(temp) || command.contains(address)),
                "left behind: {command}"
            );
        }
    }

    fn left_in_temp(&self) -> Vec<String> {
        let entries = fs::read_dir(self.temp.path()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    }
}

fn address(output: &str) -> &str {
    let mut lines = output.lines();
    let line = lines.find_map(|line| line.strip_prefix("server at "));
    line.and_then(|rest| rest.split(',').next()).unwrap()
}

fn bytecount(output: &[u8]) -> usize {
    output.iter().filter(|byte| **byte == b'\n').count()
}

fn finished(demo: Child) -> String {
    let output = demo.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{text}\n{errors}",
        output.status
    );
    text
}

fn manifest(output: &str) -> &str {
    let mut lines = output.lines();
    lines
        .find_map(|line| line.strip_prefix("manifest: "))
        .unwrap()
}

/// Each of them was run again by the worker that lived, or finished in time by the one that died;
/// and only attempts of the one that died were lost.
fn the_killed_workers_slices_are_told(output: &str) {
    // The one of the report is the last.
    let mut lines = output.lines().rev();
    let killed = lines.find(|line| line.starts_with("killed worker-"));
    let killed = killed.unwrap_or_else(|| panic!("{output}"));
    let rest = killed.strip_prefix("killed ").unwrap();
    let dead = rest.split(' ').next().unwrap();
    let living = if dead == "worker-1" {
        "worker-2"
    } else {
        "worker-1"
    };
    let held = killed.split_once("with SIGKILL, with ").unwrap().1;
    let held = held.strip_suffix(" in hand").unwrap();
    let again = output
        .lines()
        .find_map(|line| line.strip_prefix("run again: "));
    let again = again.unwrap_or_else(|| panic!("{output}"));
    let (again, told) = again
        .split_once("; its last act was to finish ")
        .unwrap_or((again, ""));
    for slice in held.split(", ").filter(|slice| *slice != "nothing") {
        let again = again.contains(&format!("{slice} (by {living})"));
        let told = told.split(", ").any(|told| told == slice);
        assert!(again != told, "{slice}: {output}");
    }
    for line in output.lines().filter(|line| line.contains(" was lost: ")) {
        assert!(line.contains(&format!(" on {dead} ")), "{line}: {output}");
    }
    assert!(!output.contains("unexpected"), "{output}");
}

#[test]
fn a_demo_with_a_worker_killed_leaves_a_manifest_that_sha256sum_accepts() {
    let stand = Stand::new();
    let output = finished(stand.demo(&[]));
    let files = format!("files_done {0} {0} same", Stand::FILES);
    let words: Vec<_> = output.split_whitespace().collect();
    assert!(words.join(" ").contains(&files), "{output}");
    the_killed_workers_slices_are_told(&output);
    assert!(output.contains("skipped 1 symbolic links"), "{output}");
    for failure in [
        "settings.unreadable",
        "service.unreachable",
        "No such file",
        "refused",
    ] {
        assert!(output.contains(failure), "{failure} is not in: {output}");
    }
    assert!(!output.contains('\x1b'), "no colour without a terminal");
    stand.accepted_by_sha256sum(manifest(&output));
    stand.nothing_runs(&output);
    assert_eq!(stand.left_in_temp().len(), 1, "the manifest alone");
}

#[test]
fn counts_are_exact_when_the_worker_dies_around_its_contribution() {
    let stand = Stand::new();
    let output = finished(stand.demo(&["--kill", "contributed"]));
    assert!(output.contains("killed worker-1"), "{output}");
    the_killed_workers_slices_are_told(&output);
    stand.accepted_by_sha256sum(manifest(&output));
    stand.nothing_runs(&output);
}

#[test]
fn what_is_kept_is_a_data_folder_and_the_manifest_goes_where_it_is_wanted() {
    let stand = Stand::new();
    let other = tempfile::tempdir().unwrap();
    let wanted = other.path().join("list");
    let wanted = wanted.to_str().unwrap();
    let output = finished(stand.demo(&["--keep", "--manifest", wanted]));
    assert_eq!(manifest(&output), wanted);
    stand.accepted_by_sha256sum(wanted);
    let mut lines = output.lines();
    let kept = lines.find_map(|line| line.strip_prefix("kept: ")).unwrap();
    assert!(Path::new(kept).join("data").is_dir());
    assert!(Path::new(kept).join("server.log").is_file());
    stand.nothing_runs(&output);
}

#[test]
fn a_demo_that_is_stopped_takes_everything_with_it() {
    let stand = Stand::new();
    let mut demo = stand.demo(&[]);
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("server at ") {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    stand.nothing_runs(&said);
    assert!(
        stand.left_in_temp().is_empty(),
        "{:?}",
        stand.left_in_temp()
    );
}

#[test]
fn a_count_that_is_off_ends_the_demo_with_an_error() {
    let stand = Stand::new();
    let mut demo = stand.demo(&[]);
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("progress: ") {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let address = address(&said);
    let mut meddle = Command::new(env!("CARGO_BIN_EXE_duite"));
    meddle.args(["state", "add", "--addr", address, "demo", "bytes_done=1"]);
    let meddled = meddle.output().unwrap();
    assert!(meddled.status.success(), "{meddled:?}");
    output.read_to_string(&mut said).unwrap();
    let ended = demo.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}\n{errors}");
    assert!(errors.contains("bytes_done is "), "{errors}");
    assert!(said.contains("OFF"), "{said}");
    assert!(!said.contains("manifest: "), "{said}");
    stand.nothing_runs(&said);
    assert!(
        stand.left_in_temp().is_empty(),
        "{:?}",
        stand.left_in_temp()
    );
}

#[test]
fn what_cannot_be_done_is_said_before_anything_starts() {
    let stand = Stand::new();
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let inside = stand.tree.path().join("manifest");
    let inside = inside.to_str().unwrap();
    for (arguments, problem) in [
        (vec!["--path", "/nonexistent"], "/nonexistent"),
        (vec!["--path", "/etc/hostname"], "is not a folder"),
        (vec!["--path", empty], "no file to digest"),
        (vec!["--manifest", inside], "would lie inside"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duite"));
        command.arg("demo").args(&arguments);
        let output = command.current_dir(stand.tree.path()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(errors.contains(problem), "{arguments:?}: {errors}");
    }
}
