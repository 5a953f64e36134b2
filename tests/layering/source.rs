//! Reads a Rust file as far as the layering test needs: which paths its code names.
//!
//! Comments, literals and what stands under `#[cfg(test)]` are blanked first; the rest is cut
//! into words, and paths are read from those, with `{…}` groups spelled out.

/// One file of `src/`.
pub(crate) struct Source {
    /// Relative to `src/`, with forward slashes.
    file: String,
    code: String,
}

/// A path as the code names it, groups spelled out: `std::{fs, net}` is two of them.
#[derive(Debug, PartialEq)]
pub(crate) struct NamedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

impl NamedPath {
    /// Whether `words`, segments with `::` between them, occur in it one after another.
    pub(crate) fn contains(&self, words: &str) -> bool {
        let words: Vec<&str> = words.split("::").collect();
        self.segments
            .windows(words.len())
            .any(|window| window == words)
    }
}

impl Source {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let code = without_tests(&without_comments_and_literals(text));
        Self {
            file: file.to_owned(),
            code,
        }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The top-level module that the file belongs to.
    pub(crate) fn module(&self) -> &str {
        let first = self.file.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules the file is deep in the crate: 1 for `domain/mod.rs` and `app.rs`.
    fn depth(&self) -> usize {
        match self.file.as_str() {
            "lib.rs" | "main.rs" => 0,
            file => file.split('/').count() - usize::from(file.ends_with("/mod.rs")),
        }
    }

    /// The name under the crate root that `path` leads to, if it leads there.
    pub(crate) fn module_used_by<'a>(&self, path: &'a NamedPath) -> Option<&'a str> {
        let supers = path
            .segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        match path.segments.first().map(String::as_str) {
            Some("crate") => path.segments.get(1),
            Some("super") if supers >= self.depth() => path.segments.get(supers),
            _ => None,
        }
        .map(String::as_str)
        .filter(|name| !matches!(*name, "super" | "self"))
    }

    /// All paths in the order of the code. Words by themselves, keywords too, are paths of one.
    pub(crate) fn paths(&self) -> Vec<NamedPath> {
        let tokens = tokens(&self.code);
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if is_word(tokens[at].0) {
                at = read_path(&tokens, at, &[], &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }
}

/// Reads the path at `at` behind `prefix`; gives the place after it.
fn read_path(
    tokens: &[(&str, usize)],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<NamedPath>,
) -> usize {
    let line = tokens[at].1;
    let mut segments = prefix.to_vec();
    loop {
        segments.push(tokens[at].0.to_owned());
        at += 1;
        let is_next =
            |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|t| t.0 == text);
        if !is_next(0, "::") {
            break;
        }
        if is_next(1, "{") {
            return read_group(tokens, at + 2, &segments, paths);
        }
        at += 1;
        if !tokens.get(at).is_some_and(|token| is_word(token.0)) {
            break; // a glob or a turbofish
        }
    }
    paths.push(NamedPath { segments, line });
    at
}

/// Reads the paths of a `{…}` group from behind its brace; gives the place after it.
fn read_group(
    tokens: &[(&str, usize)],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<NamedPath>,
) -> usize {
    while at < tokens.len() && tokens[at].0 != "}" {
        if is_word(tokens[at].0) {
            at = read_path(tokens, at, prefix, paths);
            while at < tokens.len() && !matches!(tokens[at].0, "," | "}") {
                at += 1; // a glob, or `as name`
            }
        } else {
            at += 1;
        }
    }
    at + 1
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and every other visible character by itself; each with its line.
fn tokens(code: &str) -> Vec<(&str, usize)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let in_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = if in_word(first) {
                rest.find(|c| !in_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((&rest[..length], index + 1));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Blanks comments, texts and characters, and keeps the line breaks.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, '"'),
            'r' | 'b' | 'c' if !after_word => prefixed_literal(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..length].chars().filter(|c| *c == '\n'));
            rest = &rest[length..];
        }
    }
    code
}

/// Length of the block comment, with those inside it, that `rest` starts with.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of the literal in `quote`s, with escapes, that `rest` starts with.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a literal such as `r"…"`, `br#"…"#` or `b'…'`; 0 if it is a word.
fn prefixed_literal(rest: &str) -> usize {
    let body = rest.trim_start_matches(['b', 'c', 'r']);
    let prefix = &rest[..rest.len() - body.len()];
    let hashes = body.len() - body.trim_start_matches('#').len();
    let raw = prefix.ends_with('r');
    if prefix.len() > 2 || (hashes > 0 && !raw) {
        return 0;
    }
    match body[hashes..].chars().next() {
        Some('"') if raw => {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = prefix.len() + hashes + 1;
            rest[start..]
                .find(&end)
                .map_or(rest.len(), |at| start + at + end.len())
        }
        Some('"') => prefix.len() + quoted(body, '"'),
        Some('\'') if prefix == "b" => 1 + quoted(body, '\''),
        _ => 0,
    }
}

/// Length of the character literal that `rest` starts with; 0 if it is a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(rest, '\''),
        _ => 0,
    }
}

/// Blanks the items under `#[cfg(test)]` and `#[cfg(all(test, …))]`; keeps the line breaks.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test,"]
        .iter()
        .filter_map(|m| rest.find(m))
        .min()
    {
        kept.push_str(&rest[..start]);
        let length = item(&rest[start..]);
        kept.extend(rest[start..start + length].chars().filter(|c| *c == '\n'));
        rest = &rest[start + length..];
    }
    kept + rest
}

/// Length of the item that `code` starts with, attributes included: up to its `;` or its last
/// brace, whichever comes first outside of all brackets.
fn item(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, '}' | ';' | ',') {
            return at + 1;
        }
    }
    code.len()
}

#[test]
fn paths_are_read_from_groups_and_expressions() {
    let source = Source::new(
        "a.rs",
        "use a::{b, c::{self, d as e}, f::*};\nlet x = g::h::<i>();",
    );
    let paths: Vec<(String, usize)> = source
        .paths()
        .into_iter()
        .map(|path| (path.segments.join("::"), path.line))
        .collect();
    let names: Vec<&str> = paths.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "use",
            "a::b",
            "a::c::self",
            "a::c::d",
            "a::f",
            "let",
            "x",
            "g::h",
            "i"
        ]
    );
    assert_eq!(paths.last().map(|(_, line)| *line), Some(2));
}

#[test]
fn comments_literals_and_tests_are_not_code() {
    let text = r##"
        //! crate::a
        /* crate::b /* crate::c */ crate::d */
        const T: &str = "crate::e \" crate::f";
        const R: &str = r#"crate::g " crate::h"#;
        const C: [char; 3] = ['"', '\'', '\\'];
        fn f<'a>(x: &'a str) -> u8 { b'"' + crate::kept::here() }
        #[cfg(test)]
        use crate::i;
        #[cfg(test)]
        #[allow(dead_code)]
        mod tests { fn t() { if true { crate::j(); } } }
        fn g() { crate::kept::after() }
        #[cfg(all(test, unix))]
        mod more { use crate::k; }
    "##;
    let source = Source::new("domain/mod.rs", text);
    let used: Vec<(String, usize)> = source
        .paths()
        .into_iter()
        .filter(|path| path.segments[0] == "crate")
        .map(|path| (path.segments.join("::"), path.line))
        .collect();
    assert_eq!(
        used,
        [
            ("crate::kept::here".into(), 7),
            ("crate::kept::after".into(), 13)
        ]
    );
}
