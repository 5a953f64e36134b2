//! Where the other languages are, and how their programs are started.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::support::{self, Output};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/languages");
const PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
/// A folder of cargo's for these tests.
const SCRATCH: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/languages");

/// A language with what its programs need.
#[derive(Debug)]
pub(crate) struct Language {
    program: PathBuf,
    /// What was generated or built for it.
    made: PathBuf,
}

impl Language {
    /// Python, with the generated code.
    pub(crate) fn python() -> Option<&'static Self> {
        static PYTHON: OnceLock<Option<Language>> = OnceLock::new();
        let found = PYTHON.get_or_init(|| {
            let python = Self::find("python")?;
            let mut generate = python.command();
            generate.args(["-m", "grpc_tools.protoc", "-I", PROTOS]);
            for output in ["--python_out", "--grpc_python_out"] {
                generate.arg(format!("{output}={}", python.made.display()));
            }
            support::run(generate.args(protos())).expect(0);
            Some(python)
        });
        found.as_ref()
    }

    /// Node, which reads the `.proto` files as it starts.
    pub(crate) fn node() -> Option<Self> {
        Self::find("node")
    }

    /// Go, with the generated code and the program `propagate`.
    pub(crate) fn go() -> Option<Self> {
        let go = Self::find("go")?;
        // Without modules: the packages are folders below `src`.
        let source = go.made.join("src");
        fs::create_dir_all(source.join("duite")).expect("a folder can be made");
        fs::copy(
            Path::new(SOURCES).join("go/duite/duite.go"),
            source.join("duite/duite.go"),
        )
        .expect("the source can be copied");
        let mut generate = tool("protoc");
        generate.args(["-I", PROTOS]);
        for plugin in ["go", "go-grpc"] {
            generate.arg(format!("--{plugin}_out={}", source.display()));
            for proto in protos() {
                generate.arg(format!("--{plugin}_opt=M{proto}=duite/v1;duitev1"));
            }
        }
        support::run(generate.args(protos())).expect(0);
        let mut build = go.command();
        build.env("GOPATH", &go.made).current_dir(SOURCES);
        let program = go.made.join("propagate");
        build
            .args(["build", "-o"])
            .arg(&program)
            .arg("./go/propagate");
        support::run(&mut build).expect(0);
        Some(go)
    }

    fn find(name: &str) -> Option<Self> {
        let program = format!("duite-{name}");
        let path = tools();
        let found = env::split_paths(&path).find_map(|folder| {
            let program = folder.join(&program);
            program.exists().then_some(program)
        });
        let Some(program) = found else {
            let missing = format!("{program} is missing; install it with: scripts/tools install");
            assert!(env::var_os("CI").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        };
        let made = Path::new(SCRATCH).join(name);
        fs::create_dir_all(&made).expect("a folder can be made");
        Some(Self { program, made })
    }

    fn command(&self) -> Command {
        tool(&self.program)
    }

    /// The program of that name below the language's folder, not started yet.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = self.command();
        command
            .arg(Path::new(SOURCES).join(name))
            .env("PYTHONPATH", &self.made)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// The program that was built, not started yet.
    pub(crate) fn built(&self, name: &str) -> Command {
        tool(self.made.join(name))
    }
}

/// A command without the caller's settings of telemetry.
fn tool(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// The folders with the tools, as `scripts/tools` has them.
fn tools() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/tools");
    let output = support::run(tool(script).arg("path")).expect(0);
    output.stdout.trim_end().to_owned()
}

/// The folder of the API's `.proto` files.
pub(crate) fn proto_folder() -> &'static str {
    PROTOS
}

/// The API's files, as they import each other.
fn protos() -> Vec<String> {
    let folder = fs::read_dir(Path::new(PROTOS).join("duite/v1")).expect("the files are there");
    let names = folder.map(|file| file.expect("a file").file_name());
    names
        .map(|name| format!("duite/v1/{}", name.to_string_lossy()))
        .collect()
}

/// Runs a program to its end, beside the test's own connections.
pub(crate) async fn run(mut command: Command) -> Output {
    let run = move || support::run(&mut command);
    tokio::task::spawn_blocking(run)
        .await
        .expect("the program was run")
        .expect(0)
}
