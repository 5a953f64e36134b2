use std::io::Write as _;

use super::*;

fn flags<const N: usize>(flags: [(&'static str, &str); N]) -> BTreeMap<&'static str, String> {
    flags
        .into_iter()
        .map(|(key, text)| (key, text.to_owned()))
        .collect()
}

fn env<const N: usize>(
    variables: [(&'static str, &'static str); N],
) -> impl Fn(&str) -> Option<OsString> {
    move |wanted| {
        let found = variables.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, text)| OsString::from(text))
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn options_win_over_the_environment_that_wins_over_the_file_that_wins_over_defaults() {
    let file = file("[server]\nlisten = \"f:1\"\nadmin = \"f:2\"\ndata = \"f\"\nmax_streams = 7\n");
    let loaded = load(
        &flags([("listen", "o:1")]),
        env([
            ("DUITE_LISTEN", "e:1"),
            ("DUITE_ADMIN", "e:2"),
            ("DUITE_DATA", ""),
        ]),
        Some(file.path()),
    );
    let config = loaded.unwrap().config;
    assert_eq!(config.listen, "o:1");
    assert_eq!(config.admin, "e:2");
    assert_eq!(config.data, Path::new("f"));
    assert_eq!(config.max_streams, 7);
    assert_eq!(config.drain_timeout, Duration::from_secs(15));
}

#[test]
fn every_problem_is_reported_at_once_with_its_origin() {
    let file = file("lisen = 1\n[server]\ndata = true\nhost = \"x\"\nmax_streams = 0\n");
    let problems = load(
        &flags([("listen", "nowhere")]),
        env([
            ("DUITE_DURABILITY", "interval:0"),
            ("DUITE_DISK_RESERVE", "1 %"),
            ("DUITE_DRAIN_TIMEOUT", "soon"),
            ("DUITE_LOG", "duite=loud"),
            ("DUITE_IO_THREADS", "many"),
            ("DUITE_KEEP_ENDED", "few"),
            ("DUITE_PORT", "tcp://10.0.0.1:7643"),
        ]),
        Some(file.path()),
    );
    let text = problems.unwrap_err().to_string();
    assert!(
        text.starts_with("wrong configuration, 11 problems:"),
        "{text}"
    );
    for part in [
        "unknown key `lisen`",
        "server.data: it must be text or a whole number, not boolean",
        "server.host: unknown key, known are listen, admin",
        "server.max_streams: `0` is no number of streams",
        "--listen: `nowhere` is no address",
        "DUITE_DURABILITY: `interval:0` is no durability: write sync, interval:MS",
        "DUITE_DISK_RESERVE: `1 %` is no size: write a whole number of bytes",
        "DUITE_DRAIN_TIMEOUT: `soon` is no duration",
        "DUITE_LOG: `duite=loud` is no log filter",
        "DUITE_IO_THREADS: `many` is no number of threads",
        "DUITE_KEEP_ENDED: `few` is no number of tasks",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let missing = load(&flags([]), env([("DUITE_CONFIG", "/no/such.toml")]), None);
    let text = missing.unwrap_err().to_string();
    assert!(
        text.contains("/no/such.toml: the file cannot be read"),
        "{text}"
    );
    let file = file("[server\n");
    let text = load(&flags([]), env([]), Some(file.path()))
        .unwrap_err()
        .to_string();
    assert!(text.contains(&file.path().display().to_string()), "{text}");
}

#[test]
fn a_dump_read_back_is_the_same_configuration() {
    let first = load(
        &flags([
            ("data", "a \"b\"\\c"),
            ("drain_timeout", "1m 30s"),
            ("durability", "interval:250"),
            ("disk_reserve", "1500MiB"),
        ]),
        env([("DUITE_LISTEN", "[::1]:0")]),
        None,
    );
    let first = first.unwrap();
    let dump = first.to_toml();
    assert!(
        dump.contains("# --data") && dump.contains("# DUITE_LISTEN"),
        "{dump}"
    );
    let file = file(&dump);
    let second = load(&flags([]), env([]), Some(file.path())).unwrap();
    assert_eq!(second.config, first.config);
}

#[test]
fn a_million_ended_tasks_are_kept_unless_another_number_is_given() {
    let keep = |env| load(&flags([]), env, None).unwrap().config.keep_ended;
    assert_eq!(keep(env([("DUITE_KEEP_ENDED", "")])), 1_000_000);
    assert_eq!(keep(env([("DUITE_KEEP_ENDED", "0")])), 0);
}

#[test]
fn reflection_is_on_unless_it_is_switched_off() {
    let reflection = |env| load(&flags([]), env, None).map(|loaded| loaded.config.reflection);
    assert_eq!(reflection(env([("DUITE_REFLECTION", "")])), Ok(true));
    assert_eq!(reflection(env([("DUITE_REFLECTION", "off")])), Ok(false));
    let wrong = reflection(env([("DUITE_REFLECTION", "maybe")])).unwrap_err();
    assert!(
        wrong.to_string().contains("`maybe` is no switch"),
        "{wrong}"
    );
    let file = file("[server]\nreflection = false\n");
    let loaded = load(&flags([]), env([]), Some(file.path())).unwrap();
    assert!(!loaded.config.reflection);
}

#[test]
fn an_address_is_a_host_and_a_port() {
    for good in ["127.0.0.1:0", "localhost:1", "[::1]:65535", "0.0.0.0:7643"] {
        assert_eq!(parse_address(good), Ok(good.to_owned()));
    }
    for bad in [
        "",
        "7643",
        ":7643",
        "::1:7643",
        "host:",
        "host:65536",
        "http://host",
    ] {
        assert!(parse_address(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_size_is_bytes_or_has_a_unit() {
    for (text, bytes) in [
        ("0", 0),
        ("1500", 1500),
        ("1KiB", 1 << 10),
        ("64 MiB", 64 << 20),
        ("2GiB", 2 << 30),
    ] {
        assert_eq!(parse_bytes(text), Ok(bytes));
        assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
    }
    for text in ["", "-1", "1MB", "1.5GiB", "MiB", "99999999999GiB"] {
        assert!(parse_bytes(text).unwrap_err().contains("256MiB"), "{text}");
    }
}
