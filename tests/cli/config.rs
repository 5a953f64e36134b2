//! `duite server`'s configuration: where it comes from and what is said when it is wrong.

use std::fs;

use crate::support::{command, run};

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duite.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn an_option_wins_over_the_environment_and_that_over_the_file() {
    let (_folder, path) = file(
        "[server]\nlisten = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"\ndrain_timeout = \"1s\"\n",
    );
    let dump = run(command(["server", "--config", &path, "--dump-config"])
        .args(["--listen", "127.0.0.1:3"])
        .env("DUITE_LISTEN", "127.0.0.1:2")
        .env("DUITE_ADMIN", "127.0.0.1:2")
        // What Kubernetes sets for a service called duite.
        .env("DUITE_PORT", "tcp://10.0.0.1:7643"));
    let dump = dump.expect(0).stdout;
    for line in [
        "listen = \"127.0.0.1:3\"",
        "admin = \"127.0.0.1:2\"",
        "drain_timeout = \"1s\"",
        "max_streams = 256",
    ] {
        assert!(dump.contains(line), "{line} in {dump}");
    }
    // What was dumped is a configuration.
    let (_folder, path) = file(&dump);
    let again = run(&mut command(["server", "--config", &path, "--dump-config"]));
    let value = |line: &str| line.split('#').next().map(str::trim_end).map(str::to_owned);
    let values = |dump: &str| dump.lines().map(value).collect::<Vec<_>>();
    assert_eq!(values(&again.expect(0).stdout), values(&dump));
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_the_exit_code_is_64() {
    let (_folder, path) = file("[server]\nlisen = \"127.0.0.1:1\"\n");
    let wrong = run(command(["server", "--config", &path])
        .args(["--admin", "nowhere", "--durability", "always"])
        .env("DUITE_LOG", "duite=loud"));
    wrong.expect(64).says([
        "error: wrong configuration, 4 problems",
        "server.lisen: unknown key, known are listen, admin",
        "--admin: `nowhere` is no address",
        "--durability: `always` is no durability: write sync, interval:MS",
        "DUITE_LOG: `duite=loud` is no log filter",
    ]);
}

#[test]
fn an_unknown_option_is_named_and_the_exit_code_is_2() {
    let wrong = run(&mut command(["server", "--lisen", "127.0.0.1:1"]));
    wrong.expect(2).says(["--lisen", "--listen"]);
    run(&mut command(["serve"]))
        .expect(2)
        .says(["serve", "server"]);
}
