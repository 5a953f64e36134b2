//! Texts cut to what the API keeps.

/// The text, no longer than `limit` bytes; what was cut says so, as the server would.
pub(crate) fn cut(mut text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let mark = format!("… (cut, {} bytes)", text.len());
    let mut end = limit.saturating_sub(mark.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(&mark);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_and_says_how_long_it_was() {
        let cut_text = cut("ä".repeat(100), 60);
        assert!(cut_text.len() <= 60, "{cut_text}");
        assert!(cut_text.ends_with("… (cut, 200 bytes)"), "{cut_text}");
        assert_eq!(cut("short".to_owned(), 5), "short");
    }
}
