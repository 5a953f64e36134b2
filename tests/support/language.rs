//! Where the other languages are, and how their programs are built and started.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crate::support::{self, Output};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
const PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
/// A folder of cargo's for these tests.
const SCRATCH: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/languages");

/// How long a build of code that was generated for C++ may take on a busy machine.
const BUILD_PATIENCE: Duration = Duration::from_secs(600);

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

    /// Go, with the generated code.
    pub(crate) fn go() -> Option<&'static Self> {
        static GO: OnceLock<Option<Language>> = OnceLock::new();
        let found = GO.get_or_init(|| {
            let go = Self::find("go")?;
            // Without modules: the packages are folders below `src`.
            let source = go.made.join("src");
            fs::create_dir_all(&source).expect("a folder can be made");
            let mut generate = tool("protoc");
            generate.args(["-I", PROTOS]);
            for plugin in ["go", "go-grpc"] {
                generate.arg(format!("--{plugin}_out={}", source.display()));
                for proto in protos() {
                    generate.arg(format!("--{plugin}_opt=M{proto}=duite/v1;duitev1"));
                }
            }
            support::run(generate.args(protos())).expect(0);
            Some(go)
        });
        found.as_ref()
    }

    /// Java, with the programs that its script builds.
    pub(crate) fn java() -> Option<&'static Self> {
        static JAVA: OnceLock<Option<Language>> = OnceLock::new();
        let found = JAVA.get_or_init(|| Self::find("java")?.build("conformance/java/build"));
        found.as_ref()
    }

    /// C++, with the programs that its script builds.
    pub(crate) fn cpp() -> Option<&'static Self> {
        static CPP: OnceLock<Option<Language>> = OnceLock::new();
        let found = CPP.get_or_init(|| Self::find("cpp")?.build("conformance/cpp/build"));
        found.as_ref()
    }

    /// Makes a package of Go, in a folder below `tests`, known to programs of Go.
    pub(crate) fn add_package(&self, folder: &str) {
        let from = Path::new(SOURCES).join(folder);
        let name = from.file_name().expect("a package has a name");
        let to = self.made.join("src").join(name);
        fs::create_dir_all(&to).expect("a folder can be made");
        for file in fs::read_dir(from).expect("the package is there") {
            let file = file.expect("a file");
            fs::copy(file.path(), to.join(file.file_name())).expect("the source can be copied");
        }
    }

    /// Builds a program of Go, a file or a folder below `tests`, not started yet.
    pub(crate) fn build_go(&self, source: &str, name: &str) -> Command {
        let program = self.made.join(name);
        let mut build = self.command();
        build.env("GOPATH", &self.made).current_dir(SOURCES);
        build.args(["build", "-o"]).arg(&program);
        support::run(build.arg(format!("./{source}"))).expect(0);
        tool(program)
    }

    /// Runs a script below `tests` that builds programs from the protos.
    fn build(self, script: &str) -> Option<Self> {
        let mut build = self.command();
        build.arg(Path::new(SOURCES).join(script)).arg(PROTOS);
        support::run_within(build.arg(&self.made), BUILD_PATIENCE).expect(0);
        Some(self)
    }

    /// The program of that name that was built, not started yet.
    pub(crate) fn built(&self, name: &str) -> Command {
        tool(self.made.join(name))
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

    /// The program of that name below `tests`, not started yet.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = self.command();
        command
            .arg(Path::new(SOURCES).join(name))
            .env("PYTHONPATH", &self.made)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
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
