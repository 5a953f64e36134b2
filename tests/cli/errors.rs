//! errors: the groups of what failed, and what is said of one.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Output, Running, Server, Worker, command, run};

/// Runs a program that fails with `code`, `attempts` times.
fn fail(server: &Server, id: &str, code: i32, attempts: &str) {
    let argv = ["sh", "-c", &format!("exit {code}")];
    let input = json!({ "argv": argv, "retry": true }).to_string();
    let submit = ["submit", "exec", "--id", id, "--max-attempts", attempts];
    let submit = submit.iter().copied().chain(["--wait", "--input", &input]);
    server.run(submit).expect(1);
}

/// The rows of the table, in words.
fn rows(output: &Output) -> Vec<Vec<&str>> {
    let rows = output.stdout.lines().skip(1);
    rows.map(|row| row.split_whitespace().collect()).collect()
}

#[test]
fn failed_attempts_are_grouped_and_a_group_is_shown_by_its_first_digits() {
    let server = Server::start();
    let none = server.run(["errors"]).expect(0);
    assert_eq!(none.stdout, "");
    none.says(["no errors"]);
    let _worker = Worker::start(&server);
    fail(&server, "seven", 7, "2");
    fail(&server, "eight", 8, "1");
    let table = server.run(["errors"]).expect(0);
    assert!(
        table.stdout.starts_with("FINGERPRINT   COUNT  LAST"),
        "{table:#?}"
    );
    let rows = rows(&table);
    assert_eq!(rows.len(), 2, "{table:#?}");
    let [eight, seven] = [&rows[0], &rows[1]];
    assert_eq!(
        (eight[1], eight[4], eight[5]),
        ("1", "exec", "exit.8"),
        "{table:#?}"
    );
    assert_eq!(
        (seven[1], seven[4], seven[5]),
        ("2", "exec", "exit.7"),
        "{table:#?}"
    );
    let fingerprint = seven[0];
    assert_eq!(fingerprint.len(), 12);

    let shown = server.run(["errors", "show", fingerprint]).expect(0).stdout;
    for part in [
        &format!("error       {fingerprint}"),
        "task type   exec\n",
        "failure     exit.7\n",
        "count       2\n",
        "attempt     2\n",
        "task        seven\n",
        "`duite trace seven`",
    ] {
        assert!(shown.contains(part), "`{part}` is not in {shown}");
    }
    let json = ["errors", "show", fingerprint, "-o", "json"];
    let json = server.run(json).expect(0).json();
    assert_eq!(json[0]["group"]["count"], json!("2"));
    let whole = json[0]["group"]["fingerprint"].as_str().unwrap();
    assert_eq!(whole.len(), 32);
    server
        .run(["errors", "show", &whole.to_uppercase()])
        .expect(0);

    let json = server.run(["errors", "-o", "json", "--limit", "1"]);
    let json = json.expect(0).says(["there are more: --limit"]).json();
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["failureType"], json!("exit.8"));
    let other = ["submit", "t", "--namespace", "other"];
    server.run(other).expect(0);
    let other = server.run(["errors", "--namespace", "other"]).expect(0);
    other.says(["no errors"]);
}

#[test]
fn errors_are_watched_live_in_lines_and_in_frames() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    fail(&server, "before", 7, "1");
    let watch = |more: &[&str]| {
        let arguments = ["errors", "--watch"].iter().chain(more);
        Running::start(&mut server.command(arguments))
    };
    let mut lines = watch(&[]);
    assert!(lines.stdout_until("exit.7").contains(" 1x exec exit.7"));
    let mut frames = watch(&["-o", "json"]);
    frames.stdout_until("\"snapshot\"");
    frames.stdout_until("\"synced\"");
    fail(&server, "after", 7, "1");
    assert!(lines.stdout_until("2x").contains(" 2x exec exit.7"));
    let delta = frames.stdout_until("\"delta\"");
    let delta: serde_json::Value = serde_json::from_str(&delta).unwrap();
    assert_eq!(delta["delta"]["changed"][0]["count"], json!("2"));
    for mut watch in [lines, frames] {
        watch.signal(Signal::INT);
        assert_eq!(watch.wait().code(), Some(0));
    }
}

#[test]
fn an_error_that_is_not_there_or_not_the_only_one_is_told_so() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    // Seventeen groups: two begin with the same digit.
    for code in 1..18 {
        fail(&server, &format!("t{code}"), code, "1");
    }
    let groups = server.run(["errors", "-o", "json"]).expect(0).json();
    let mut first: Vec<_> = groups
        .iter()
        .map(|group| group["fingerprint"].as_str().unwrap()[..1].to_owned())
        .collect();
    first.sort();
    let twice = first.windows(2).find(|pair| pair[0] == pair[1]).unwrap();
    let several = server.run(["errors", "show", &twice[0]]).expect(2);
    several.says(["more than one", "exec exit.", "hint: give more digits"]);
    for unknown in ["0123456789ab", "0123456789abcdef0123456789abcdef"] {
        let missing = server.run(["errors", "show", unknown]).expect(3);
        missing.says([unknown, "hint: `duite errors`"]);
    }
}

#[test]
fn what_is_no_fingerprint_is_said_before_any_server_is_asked() {
    let refused: [(&[&str], [&str; 2]); 5] = [
        (
            &["errors", "show", "xyz"],
            ["`xyz` is no fingerprint", "hint: "],
        ),
        (&["errors", "show", ""], ["it is empty", "hint: "]),
        (&["errors", "--watch", "show", "ab"], ["`show`", "--watch"]),
        (&["errors", "--updates-only"], ["--updates-only", "--watch"]),
        (
            &["errors", "--watch", "--limit", "3"],
            ["--limit", "--watch"],
        ),
    ];
    for (arguments, parts) in refused {
        let nowhere = ["--addr", "127.0.0.1:1"];
        let output = run(command(arguments).args(nowhere));
        output.expect(2).says(parts);
    }
    let nobody = run(&mut command(["errors", "--addr", "127.0.0.1:1"]));
    nobody
        .expect(69)
        .says(["no server answers at 127.0.0.1:1", "(TRANSPORT)"]);
}
