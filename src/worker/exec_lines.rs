//! The lines by which a program reports state on its standard output.
//!
//! `::duite ` at the start of a line, then operations with spaces between them; one line is one
//! batch, all of it or, where any of it is malformed, none:
//!
//! | written | does |
//! |---|---|
//! | `key=VALUE` | put |
//! | `key+=VALUE` | add |
//! | `key!` | delete |
//!
//! A key is any run of characters but space, `=`, `+`, `!` and `"`. A VALUE is JSON without
//! spaces outside of text: an integer, a number, `true`, `false`, `null`, a quoted text with JSON's
//! escapes, a list or an object. What is put and is none of these, and begins with none of `"`, `[`
//! and `{`, is text up to the next space: `phase=mesh`, `version=1.2.3`.

use serde::Deserialize;

use crate::client::{Update, to_value};

/// What a line begins with that is meant for duite.
pub(super) const PREFIX: &str = "::duite";

/// What is wrong with a line, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it names no operation")]
    Empty,
    #[error("`{0}` does not begin with a key and `=`, `+=` or `!`")]
    Operation(String),
    #[error("the value of `{key}` is not JSON: {why}")]
    Value { key: String, why: String },
    #[error("there is no space after the value of `{0}`")]
    Space(String),
}

/// The line's operations; None for a line that is plain output.
pub(super) fn parse(line: &str) -> Option<Result<Vec<Update>, Malformed>> {
    let rest = line.strip_prefix(PREFIX)?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return None;
    }
    Some(parse_operations(rest))
}

fn parse_operations(mut rest: &str) -> Result<Vec<Update>, Malformed> {
    let mut updates = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r']);
        if rest.is_empty() {
            break;
        }
        let wrong = || Malformed::Operation(first_word(rest).to_owned());
        let end = rest
            .find([' ', '\t', '=', '+', '!', '"'])
            .ok_or_else(wrong)?;
        let (key, after) = rest.split_at(end);
        if key.is_empty() {
            return Err(wrong());
        }
        if let Some(after) = after.strip_prefix('!') {
            updates.push(Update::delete(key));
            rest = spaced(key, after)?;
        } else if let Some(after) = after.strip_prefix("+=") {
            let (value, after) = value(key, after)?;
            updates.push(Update::add(key, to_value(&value)));
            rest = after;
        } else if let Some(after) = after.strip_prefix('=') {
            let (value, after) = match bare_word(after) {
                Some((word, after)) => (word.into(), after),
                None => value(key, after)?,
            };
            updates.push(Update::put(key, to_value(&value)));
            rest = after;
        } else {
            return Err(wrong());
        }
    }
    if updates.is_empty() {
        Err(Malformed::Empty)
    } else {
        Ok(updates)
    }
}

fn value<'a>(key: &str, text: &'a str) -> Result<(serde_json::Value, &'a str), Malformed> {
    let wrong = |why: String| Malformed::Value {
        key: key.to_owned(),
        why,
    };
    if text.is_empty() || text.starts_with([' ', '\t']) {
        return Err(wrong("there is none".to_owned()));
    }
    let end = end_of_value(text);
    let mut json = serde_json::Deserializer::from_str(&text[..end]);
    let value =
        serde_json::Value::deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    let value = value.map_err(|error| wrong(error.to_string()))?;
    Ok((value, spaced(key, &text[end..])?))
}

/// Text without quotes, up to the next space; None for what is to be read as JSON.
fn bare_word(text: &str) -> Option<(&str, &str)> {
    let end = text.find([' ', '\t', '\r']).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let is_bare = !word.is_empty()
        && !word.starts_with(['"', '[', '{'])
        && serde_json::from_str::<serde_json::Value>(word).is_err();
    is_bare.then_some((word, after))
}

/// Where the first space outside of a quoted text is, or the end.
fn end_of_value(text: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' | '\r' if !quoted => return index,
            _ => {}
        }
    }
    text.len()
}

fn spaced<'a>(key: &str, rest: &'a str) -> Result<&'a str, Malformed> {
    if rest.is_empty() || rest.starts_with([' ', '\t', '\r']) {
        Ok(rest)
    } else {
        Err(Malformed::Space(key.to_owned()))
    }
}

fn first_word(text: &str) -> &str {
    text.split([' ', '\t']).next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_parsed_into_its_operations() {
        let line = r#"::duite progress=0.4 phase="mesh \"A\" 1" done+=3 old! list=[1,"a b",{"x":null}] ok=true"#;
        let updates = parse(line).unwrap().unwrap();
        let expected = [
            Update::put("progress", 0.4),
            Update::put("phase", "mesh \"A\" 1"),
            Update::add("done", 3),
            Update::delete("old"),
            Update::put("list", json!([1, "a b", { "x": null }])),
            Update::put("ok", true),
        ];
        assert_eq!(updates, expected);
    }

    #[test]
    fn a_bare_word_is_text_up_to_the_next_space() {
        let line = "::duite phase=mesh version=1.2.3 eta=5s on=true n=-1 next=a=b,c";
        let expected = [
            Update::put("phase", "mesh"),
            Update::put("version", "1.2.3"),
            Update::put("eta", "5s"),
            Update::put("on", true),
            Update::put("n", -1),
            Update::put("next", "a=b,c"),
        ];
        assert_eq!(parse(line).unwrap().unwrap(), expected);
    }

    #[test]
    fn other_lines_are_plain_output() {
        for line in ["", "hello", " ::duite a=1", "::duitea=1", "# ::duite a=1"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_malformed_line_says_what_is_wrong_and_does_nothing() {
        for (line, why) in [
            ("::duite", "names no operation"),
            ("::duite word", "`word`"),
            ("::duite =1", "`=1`"),
            ("::duite a=1 b=", "value of `b`"),
            ("::duite a+=hello", "value of `a` is not JSON"),
            ("::duite a=[1,x]", "value of `a` is not JSON"),
            ("::duite a=\"open", "value of `a` is not JSON"),
            ("::duite a!b", "no space after the value of `a`"),
            ("::duite a=\"b\"c", "value of `a`"),
            ("::duite a+1", "`a+1`"),
        ] {
            let error = parse(line).unwrap().unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,60}") {
            let _ = parse(&format!("{PREFIX} {text}"));
        }

        #[test]
        fn any_text_value_comes_through(text in ".{0,40}") {
            let line = format!("{PREFIX} key={} n=1", json!(text));
            let expected = vec![Update::put("key", text.as_str()), Update::put("n", 1)];
            prop_assert_eq!(parse(&line).unwrap().unwrap(), expected);
        }
    }
}
