//! Text of others: bounded, and without characters that act instead of being shown.

/// Whether a character does something to a terminal, or to the text around it, instead of being shown:
/// control characters, separators of lines and paragraphs, a byte order mark, tags that nobody sees, and the
/// marks, embeddings, overrides and isolates of bidirectional text.
#[must_use]
pub const fn is_active(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The first characters of a text; where some are left out, it says so.
#[must_use]
pub fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} … ({} bytes)", &text[..end], text.len()),
    }
}

/// A text on one line: white space is a space, another active character is shown by its number.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' | '\u{85}' | '\u{2028}' | '\u{2029}' => plain.push(' '),
            character if is_active(character) => plain.extend(character.escape_unicode()),
            character => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_others_stays_on_its_line_and_within_its_bounds() {
        let evil = "a\u{1b}[2J\n\r\t\u{7}\u{202e}b\u{9b}\u{2066}\u{feff}\u{0}\u{85}\u{2028}\u{e0041}";
        assert!(!plain(evil).chars().any(is_active), "{:?}", plain(evil));
        assert_eq!(plain("why\nnot, grüße ✓"), "why not, grüße ✓");
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüx", 3), "äöü … (7 bytes)");
    }
}
