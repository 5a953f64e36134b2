//! Wrong input: each is refused with what was wrong and, where the server refused it, the reason.

use crate::support::{Output, Server, command, run};

#[test]
fn what_the_server_refuses_comes_with_its_reason() {
    let server = Server::start();
    server.run(["submit", "t", "--id", "done"]).expect(0);
    server
        .run(["submit", "t", "--id", "taken", "--queue", "one"])
        .expect(0);
    server.run(["state", "set", "s", "word=mesh"]).expect(0);
    let long_key = format!("{}=1", "k".repeat(257));
    let refused: [(&[&str], i32, &[&str]); 9] = [
        (
            &["task", "get", "none"],
            3,
            &["none", "(TASK_NOT_FOUND)", "hint: `duite task list`"],
        ),
        (&["task", "cancel", "none"], 3, &["(TASK_NOT_FOUND)"]),
        (&["task", "watch", "none"], 3, &["(TASK_NOT_FOUND)"]),
        (&["state", "get", "none"], 3, &["none", "(STATE_NOT_FOUND)"]),
        (&["submit", "no good"], 1, &["no good", "(FIELD_INVALID)"]),
        (
            &["submit", "t", "--id", ".hidden"],
            1,
            &[".hidden", "(FIELD_INVALID)"],
        ),
        (
            &["submit", "t", "--id", "taken", "--queue", "two"],
            1,
            &["taken", "(TASK_EXISTS)", "--id"],
        ),
        (
            &["state", "set", "s", &long_key],
            1,
            &["256 bytes", "(KEY_INVALID)"],
        ),
        (
            &["state", "add", "s", "word=1"],
            1,
            &["key `word` was not accepted", "(TYPE_MISMATCH)"],
        ),
    ];
    for (arguments, code, parts) in refused {
        let output = server.run(arguments).expect(code);
        assert!(output.stderr.starts_with("error: "), "{output:#?}");
        for part in parts {
            assert!(
                output.stderr.contains(part),
                "`{part}` is not in {output:#?}"
            );
        }
    }
    assert_eq!(
        server.run(["state", "get", "s", "word"]).expect(0).stdout,
        "mesh\n"
    );
}

#[test]
fn a_value_over_the_limit_is_refused() {
    let server = Server::start();
    let file = server.data().with_file_name("large");
    // Larger than the limit, and smaller than what a process may take as one argument.
    std::fs::write(&file, format!("\"{}\"", "x".repeat(5 << 20))).unwrap();
    let input = format!("@{}", file.display());
    let output = server.run(["submit", "t", "--input", &input]).expect(1);
    assert!(output.stderr.contains("error: "), "{output:#?}");
}

#[test]
fn a_write_under_an_old_lease_is_refused() {
    let server = Server::start();
    let write = |lease: &str| -> Output {
        run(server
            .command(["state", "set", "a=1"])
            .env("DUITE_STATE", "namespaces/default/states/s")
            .env("DUITE_LEASE", lease))
    };
    write("xyz").expect(2).says(["DUITE_LEASE is `xyz`"]);
    write("00").expect(1).says(["(LEASE_TOKEN_MALFORMED)"]);
}

#[test]
fn what_makes_no_sense_is_said_before_any_server_is_asked() {
    let nowhere = ["--addr", "127.0.0.1:1"];
    let refused: [(&[&str], &[&str]); 12] = [
        (
            &["submit", "t", "--input", "{oops"],
            &["not JSON", "hint: ", "--content-type"],
        ),
        (&["submit", "t", "--priority", "10"], &["10", "0..=9"]),
        (&["submit", "t", "--delay", "soon"], &["soon", "--delay"]),
        (&["state", "set", "s"], &["nothing to write", "KEY=VALUE"]),
        (
            &["state", "set", "s", "a:=mesh"],
            &["`a:=mesh`", "not JSON"],
        ),
        (
            &["state", "add", "s", "n=mesh"],
            &["`n=mesh`", "can be added"],
        ),
        (&["state", "set", "a=1"], &["which state?", "DUITE_STATE"]),
        (&["worker"], &["nothing to run", "--allow-exec"]),
        (&["state", "add", "s"], &["nothing to write", "KEY=NUMBER"]),
        (&["state", "add", "x", "a"], &["`a`", "KEY=NUMBER"]),
        (&["task", "list", "--limit", "0"], &["0", "--limit"]),
        (&["submit"], &["Usage: duite submit [OPTIONS] <TYPE>"]),
    ];
    for (arguments, parts) in refused {
        let output = run(command(arguments).args(nowhere)).expect(2);
        for part in parts {
            assert!(
                output.stderr.contains(part),
                "`{part}` is not in {output:#?}"
            );
        }
    }
    let output = run(&mut command(["task", "list", "--addr", "https://x:1"])).expect(2);
    assert!(output.stderr.contains("https://x:1"), "{output:#?}");
    let output = run(&mut command(["task", "list", "--addr", "foo"])).expect(2);
    output.says(["`foo`", "HOST:PORT"]);
}

#[test]
fn a_server_that_is_not_there_ends_watches_too() {
    for arguments in [
        ["task", "watch"].as_slice(),
        &["state", "watch", "s"],
        &["info"],
    ] {
        let output = run(command(arguments).args(["--addr", "127.0.0.1:1"]));
        output
            .expect(69)
            .says(["no server answers at 127.0.0.1:1", "(TRANSPORT)"]);
    }
}
