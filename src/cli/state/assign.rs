//! `KEY=VALUE` and `KEY:=JSON`.

use super::super::Error;
use crate::client::{Update, to_value};

/// What `state set` does with a word.
pub(super) fn set(word: &str) -> Result<Update, Error> {
    let (key, value) = parse(word, "KEY=VALUE or KEY:=JSON")?;
    Ok(Update::put(key, to_value(&value)))
}

/// What `state add` does with a word.
pub(super) fn add(word: &str) -> Result<Update, Error> {
    let (key, value) = parse(word, "KEY=NUMBER")?;
    if !value.is_number() {
        return Err(Error::usage(format!(
            "`{word}`: only a whole number or a number can be added, such as {key}=1 or {key}=0.5"
        )));
    }
    Ok(Update::add(key, to_value(&value)))
}

fn parse<'a>(word: &'a str, form: &str) -> Result<(&'a str, serde_json::Value), Error> {
    let Some((key, text)) = word.split_once('=') else {
        return Err(Error::usage(format!(
            "`{word}` has no `=`: write it like {form}"
        )));
    };
    let (key, value) = match key.strip_suffix(':') {
        None => (key, guess(text)),
        Some(key) => {
            let value = serde_json::from_str(text).map_err(|problem| {
                Error::usage(format!(
                    "`{word}`: what follows `:=` is not JSON: {problem}"
                ))
                .hint("KEY=VALUE takes it as text")
            })?;
            (key, value)
        }
    };
    if key.is_empty() {
        return Err(Error::usage(format!("`{word}` has no key before the `=`")));
    }
    Ok((key, value))
}

/// A number, true, false, null or quoted text for what it is; anything else is text. So are whole
/// numbers that do not fit: a long id must not turn into a rounded number.
fn guess(text: &str) -> serde_json::Value {
    use serde_json::Value as Json;
    let whole = text
        .trim_start_matches('-')
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    match serde_json::from_str::<Json>(text) {
        Ok(Json::Number(number)) if whole && !number.is_i64() => Json::String(text.to_owned()),
        Ok(json @ (Json::Number(_) | Json::Bool(_) | Json::Null | Json::String(_))) => json,
        Ok(Json::Array(_) | Json::Object(_)) | Err(_) => Json::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_what_it_looks_like() {
        for (text, value) in [
            ("0.4", json!(0.4)),
            ("-3", json!(-3)),
            ("1e3", json!(1000.0)),
            ("true", json!(true)),
            ("null", json!(null)),
            ("\"7\"", json!("7")),
            ("mesh", json!("mesh")),
            ("", json!("")),
            ("007", json!("007")),
            ("[1]", json!("[1]")),
            ("{\"a\":1}", json!("{\"a\":1}")),
            ("12345678901234567890", json!("12345678901234567890")),
            ("a=b", json!("a=b")),
        ] {
            assert_eq!(guess(text), value, "{text}");
        }
    }

    #[test]
    fn a_word_is_a_key_and_a_value_or_json() {
        assert_eq!(set("a=1").unwrap(), Update::put("a", 1));
        assert_eq!(set("a:=[1]").unwrap(), Update::put("a", json!([1])));
        assert_eq!(
            set("url=http://x?a=b").unwrap(),
            Update::put("url", "http://x?a=b")
        );
        assert_eq!(add("n=2").unwrap(), Update::add("n", 2));
        for wrong in ["a", "=1", ":=1", "a:=mesh"] {
            let error = set(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
        assert!(
            add("n=mesh")
                .unwrap_err()
                .to_string()
                .contains("only a whole number")
        );
    }
}
