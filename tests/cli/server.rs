//! `duite server`: its line, what it refuses to start on, how it stops.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
};

use rustix::process::Signal;

use crate::support::{Running, Server, command, run};

fn server(data: &str) -> Command {
    let mut command = command(["server", "--listen", "127.0.0.1:0"]);
    command.args(["--admin", "127.0.0.1:0", "--data", data]);
    command
}

#[test]
fn a_server_says_where_it_listens_and_ends_with_0_when_asked_to() {
    let mut server = Server::start();
    server.run(["info"]).expect(0);
    assert_ne!(server.grpc(), server.admin());
    assert_eq!(server.stop().code(), Some(0));
    assert!(
        server.log().contains("server has stopped"),
        "{}",
        server.log()
    );
    let line = server.log().lines().next().unwrap().to_owned();
    assert!(
        serde_json::from_str::<serde_json::Value>(&line).is_ok(),
        "no JSON: {line}"
    );
    server.run(["info"]).expect(69).says([
        "error: no server answers at",
        "(TRANSPORT)",
        "hint: `duite server` starts one",
    ]);
}

#[test]
fn a_port_in_use_is_named_with_the_option_that_chooses_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    for option in ["--listen", "--admin"] {
        let other = if option == "--listen" {
            "--admin"
        } else {
            "--listen"
        };
        let refused =
            run(command(["server", option, &address, other, "127.0.0.1:0"])
                .current_dir(folder.path()));
        refused.expect(1).says([
            "error: cannot listen on",
            &address,
            "choose another with",
            option,
        ]);
    }
}

#[test]
fn a_data_folder_in_use_is_named_with_its_holder() {
    let first = Server::start();
    let refused = run(&mut server(first.data().to_str().unwrap()));
    let holder = format!("process {}", first.pid());
    refused
        .expect(1)
        .says(["error: data folder", "is in use by", &holder, "--data"]);
}

#[test]
fn a_server_stops_while_a_watch_is_open() {
    let mut server = Server::start();
    server.run(["state", "set", "s", "a=1"]).expect(0);
    let mut watch = Running::start(&mut server.command(["state", "watch", "s"]));
    assert_eq!(watch.stdout_until("a="), "a=1");
    assert_eq!(server.stop().code(), Some(0));
    assert!(!server.log().contains("drain timeout"), "{}", server.log());
    // The watch waits for the server and goes on from where it was.
    server.restart();
    server.run(["state", "set", "s", "a=2"]).expect(0);
    assert_eq!(watch.stdout_until("a="), "a=2");
    watch.signal(Signal::INT);
    assert_eq!(watch.wait().code(), Some(0));
}

#[test]
fn what_was_acknowledged_is_there_after_the_server_was_killed() {
    let mut server = Server::start();
    server.run(["submit", "t", "--id", "kept"]).expect(0);
    server.run(["state", "add", "s", "n=1"]).expect(0);
    server.kill9();
    server.restart();
    server.run(["task", "get", "kept"]).expect(0);
    server.run(["state", "add", "s", "n=1"]).expect(0);
    assert_eq!(
        server.run(["state", "get", "s", "n"]).expect(0).stdout,
        "2\n"
    );
}

/// A connection that never ends by itself. What is accepted after it shows that it was.
fn hang(server: &Server) -> TcpStream {
    let silent = TcpStream::connect(server.grpc()).unwrap();
    server.run(["info"]).expect(0);
    silent
}

#[test]
fn a_connection_that_does_not_end_is_cut_after_the_drain_timeout() {
    let mut server = Server::start_with(["--drain-timeout", "100ms"]);
    let _silent = hang(&server);
    assert_eq!(server.stop().code(), Some(0));
    assert!(server.log().contains("drain timeout"), "{}", server.log());
    assert!(
        server.log().contains("server has stopped"),
        "{}",
        server.log()
    );
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut server = Server::start_with(["--drain-timeout", "1h"]);
    let _silent = hang(&server);
    server.signal(Signal::TERM);
    // It listens no more: the first signal has been taken.
    while TcpStream::connect(server.grpc()).is_ok() {
        std::thread::yield_now();
    }
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(130));
}
