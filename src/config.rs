//! The server's configuration: options over environment over file over defaults.
//!
//! Every setting is text with an origin until it is parsed, so one reader serves all three sources,
//! every problem is reported at once, and each names where the value came from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    engine::DEFAULT_KEEP_ENDED,
    journal::{Durability, WrongDurability},
    telemetry,
};

#[cfg(test)]
mod tests;

/// Names the file where no `--config` does.
pub const FILE_VARIABLE: &str = "DUITE_CONFIG";

/// What a server runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where gRPC is served, `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where health, reflection and metrics are served.
    pub admin: String,
    /// The data folder.
    pub data: PathBuf,
    /// When a write is answered.
    pub durability: Durability,
    /// Bytes that stay free on the data folder's disk; writes are refused before.
    pub disk_reserve: u64,
    /// How long a stopping server waits for its streams to end.
    pub drain_timeout: Duration,
    /// Streams and calls that one connection may have open.
    pub max_streams: u32,
    /// Threads that serve connections; 0: one for each processor.
    pub io_threads: u32,
    /// Ended tasks that each namespace keeps, beside those protected by a request id; 0: all, until
    /// their retention is over.
    pub keep_ended: u64,
    /// Whether the address of gRPC serves reflection too, so that grpcurl and its like can call it
    /// without our files.
    pub reflection: bool,
    /// The log filter.
    pub log: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7643".to_owned(),
            admin: "127.0.0.1:7644".to_owned(),
            data: PathBuf::from("duite-data"),
            durability: Durability::Sync,
            // A few times what the journal writes in the background before it frees anything.
            disk_reserve: 256 << 20,
            drain_timeout: Duration::from_secs(15),
            // Bounds what one connection can pin; a program that needs more opens another.
            max_streams: 256,
            io_threads: 0,
            keep_ended: DEFAULT_KEEP_ENDED as u64,
            reflection: true,
            log: telemetry::DEFAULT_FILTER.to_owned(),
        }
    }
}

/// The settings in the order of the dump. A key is its name in the file; `--drain-timeout` and
/// `DUITE_DRAIN_TIMEOUT` follow from it.
pub const KEYS: [&str; 11] = [
    "listen",
    "admin",
    "data",
    "durability",
    "disk_reserve",
    "drain_timeout",
    "max_streams",
    "io_threads",
    "keep_ended",
    "reflection",
    "log",
];

/// The settings that are on or off; a file may say true or false.
const SWITCHES: [&str; 1] = ["reflection"];

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(formatter, "wrong configuration: {one}"),
            all => {
                write!(formatter, "wrong configuration, {} problems:", all.len())?;
                all.iter()
                    .try_for_each(|problem| write!(formatter, "\n  {problem}"))
            }
        }
    }
}

/// A configuration, with the origin of each setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: ServerConfig,
    origins: BTreeMap<&'static str, String>,
}

/// Reads the configuration. `flags` are the options that were given, by key; `env` looks up an
/// environment variable; `file` is what `--config` named.
pub fn load(
    flags: &BTreeMap<&'static str, String>,
    env: impl Fn(&str) -> Option<OsString>,
    file: Option<&Path>,
) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let named = env(FILE_VARIABLE).filter(|path| !path.is_empty());
    let file = file.map(Path::to_owned).or(named.map(PathBuf::from));
    let file = file.map(|path| read_file(&path, &mut problems));
    let mut reader = Reader {
        flags,
        env,
        file: file.unwrap_or_default(),
        problems,
        origins: BTreeMap::new(),
    };
    let defaults = ServerConfig::default();
    let config = ServerConfig {
        listen: reader.read("listen", defaults.listen, parse_address),
        admin: reader.read("admin", defaults.admin, parse_address),
        data: reader.read("data", defaults.data, parse_path),
        durability: reader.read("durability", defaults.durability, parse_durability),
        disk_reserve: reader.read("disk_reserve", defaults.disk_reserve, parse_bytes),
        drain_timeout: reader.read("drain_timeout", defaults.drain_timeout, parse_drain),
        max_streams: reader.read("max_streams", defaults.max_streams, parse_streams),
        io_threads: reader.read("io_threads", defaults.io_threads, parse_threads),
        keep_ended: reader.read("keep_ended", defaults.keep_ended, parse_count),
        reflection: reader.read("reflection", defaults.reflection, parse_switch),
        log: reader.read("log", defaults.log, parse_log),
    };
    if reader.problems.is_empty() {
        Ok(Loaded {
            config,
            origins: reader.origins,
        })
    } else {
        Err(Problems(reader.problems))
    }
}

/// A setting's text and where it stood.
type Sourced = (String, String);

struct Reader<'a, E> {
    flags: &'a BTreeMap<&'static str, String>,
    env: E,
    file: BTreeMap<String, Sourced>,
    problems: Vec<String>,
    origins: BTreeMap<&'static str, String>,
}

impl<E: Fn(&str) -> Option<OsString>> Reader<'_, E> {
    fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let Some((text, origin)) = self.find(key) else {
            self.origins.insert(key, "default".to_owned());
            return default;
        };
        let parsed = parse(&text);
        let value = parsed.unwrap_or_else(|problem| {
            self.problems.push(format!("{origin}: {problem}"));
            default
        });
        self.origins.insert(key, origin);
        value
    }

    fn find(&mut self, key: &'static str) -> Option<Sourced> {
        if let Some(text) = self.flags.get(key) {
            return Some((text.clone(), format!("--{}", key.replace('_', "-"))));
        }
        let variable = format!("DUITE_{}", key.to_uppercase());
        // A variable without content is as good as none: it cannot be unset in many manifests.
        match (self.env)(&variable).map(OsString::into_string) {
            Some(Ok(text)) if !text.is_empty() => return Some((text, variable)),
            Some(Err(_)) => self
                .problems
                .push(format!("{variable}: it is not UTF-8 text")),
            Some(Ok(_)) | None => {}
        }
        self.file.get(key).cloned()
    }
}

/// The settings of a file's table `[server]`.
fn read_file(path: &Path, problems: &mut Vec<String>) -> BTreeMap<String, Sourced> {
    let name = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("{name}: the file cannot be read: {error}"));
            return BTreeMap::new();
        }
    };
    let mut tables: toml::Table = match text.parse() {
        Ok(tables) => tables,
        Err(error) => {
            problems.push(format!("{name}: {}", error.to_string().trim_end()));
            return BTreeMap::new();
        }
    };
    let server = tables.remove("server");
    for key in tables.keys() {
        problems.push(format!(
            "{name}: unknown key `{key}`: all settings stand in the table [server]"
        ));
    }
    let server = match server {
        Some(toml::Value::Table(server)) => server,
        None => toml::Table::new(),
        Some(_) => {
            problems.push(format!("{name}: `server` must be a table, [server]"));
            toml::Table::new()
        }
    };
    let mut settings = BTreeMap::new();
    for (key, value) in server {
        let origin = format!("{name}: server.{key}");
        let text = match value {
            _ if !KEYS.contains(&key.as_str()) => {
                let keys = KEYS.join(", ");
                problems.push(format!("{origin}: unknown key, known are {keys}"));
                continue;
            }
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(on) if SWITCHES.contains(&key.as_str()) => switch(on).to_owned(),
            other => {
                let kind = other.type_str();
                problems.push(format!(
                    "{origin}: it must be text or a whole number, not {kind}"
                ));
                continue;
            }
        };
        settings.insert(key, (text, origin));
    }
    settings
}

fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    // Colons within a host are those of IPv6 and want brackets.
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
        return Err(format!(
            "`{text}` is no address to listen on: write HOST:PORT, such as 127.0.0.1:7643 or [::]:7643"
        ));
    }
    Ok(text.to_owned())
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("`{text}` is no switch: write on or off")),
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("an empty path names no folder".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    text.parse()
        .map_err(|error: WrongDurability| error.to_string())
}

/// The units of sizes, largest first.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is no size: write a whole number of bytes, or one with KiB, MiB or GiB, such as 256MiB; 0 turns it off"
        )
    };
    let mut units = UNITS.iter();
    let unit = units.find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let number: u64 = number.trim_end().parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

fn format_bytes(bytes: u64) -> String {
    let mut units = UNITS.iter();
    match units.find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

fn parse_drain(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(3600);
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= longest => Ok(duration),
        Ok(_) => Err(format!("`{text}` is longer than an hour")),
        Err(error) => Err(format!(
            "`{text}` is no duration: {error}; write it like 15s or 500ms"
        )),
    }
}

fn parse_streams(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(streams @ 1..=65_536) => Ok(streams),
        _ => Err(format!(
            "`{text}` is no number of streams: write one from 1 to 65536"
        )),
    }
}

fn parse_threads(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(threads @ 0..=256) => Ok(threads),
        _ => Err(format!(
            "`{text}` is no number of threads: write one from 1 to 256, or 0 for one per processor"
        )),
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is no number of tasks: write a whole one, or 0 for no limit")
    })
}

fn parse_log(text: &str) -> Result<String, String> {
    telemetry::check(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl Loaded {
    /// The effective configuration as a file, each setting with its origin.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let ServerConfig {
            listen,
            admin,
            data,
            durability,
            disk_reserve,
            drain_timeout,
            max_streams,
            io_threads,
            keep_ended,
            reflection,
            log,
        } = &self.config;
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let values = [
            text(listen),
            text(admin),
            text(&data.display().to_string()),
            text(&durability.to_string()),
            text(&format_bytes(*disk_reserve)),
            text(&humantime::format_duration(*drain_timeout).to_string()),
            max_streams.to_string(),
            io_threads.to_string(),
            keep_ended.to_string(),
            text(switch(*reflection)),
            text(log),
        ];
        let mut toml = "[server]\n".to_owned();
        for (key, value) in KEYS.into_iter().zip(values) {
            let origin = self.origins.get(key).map_or("default", String::as_str);
            let line = format!("{key} = {value}");
            // Writing to text cannot fail.
            let _ = writeln!(toml, "{line:<40}# {}", origin.escape_debug());
        }
        toml
    }
}
