//! Colours: what needs a person is red, what is under way yellow, what is well green, ids are dim. A colour
//! never says what no word says.

use std::io::IsTerminal as _;

use clap::ValueEnum;

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether this standard output gets colours.
    pub(crate) fn is_on(self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            // https://no-color.org
            Self::Auto => {
                !set("NO_COLOR")
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
                    && std::io::stdout().is_terminal()
            }
        }
    }
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const END: &str = "\x1b[0m";

/// Words that need a person's eye.
const LOUD: [&str; 9] =
    ["STUCK", "DOWN", "BEHIND", "FAIL", "DELETED", "TERMINATED", "REFUSED", "LOST", "NOT"];

/// The prefixes of AWS's ids.
pub(crate) const IDS: [&str; 8] = ["i-", "vol-", "eni-", "snap-", "ami-", "subnet-", "sg-", "replacevol-"];

/// The least length of an id after its prefix.
const ID_MIN: usize = 8;

/// A text with colours; its visible characters stay as they are.
pub(crate) fn painted(text: &str) -> String {
    let mut painted = String::with_capacity(text.len() * 2);
    let mut word = String::new();
    for character in text.chars() {
        if character.is_alphanumeric() || character == '-' {
            word.push(character);
        } else {
            push(&mut painted, &word);
            word.clear();
            painted.push(character);
        }
    }
    push(&mut painted, &word);
    painted
}

fn push(painted: &mut String, word: &str) {
    match colour_of(word) {
        Some(colour) => {
            painted.push_str(colour);
            painted.push_str(word);
            painted.push_str(END);
        }
        None => painted.push_str(word),
    }
}

fn colour_of(word: &str) -> Option<&'static str> {
    let is_id = |prefix: &&str| {
        word.strip_prefix(*prefix)
            .is_some_and(|id| id.len() >= ID_MIN && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    match word {
        word if LOUD.contains(&word) => Some(RED),
        "WARN" | "running" => Some(YELLOW),
        "UP" | "finished" | "ok" => Some(GREEN),
        _ if IDS.iter().any(is_id) => Some(DIM),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_red_ids_are_dim_and_every_visible_character_stays() {
        let text = "db-1  STUCK, DOWN in replace  i-0ffa8f9576b1d87b3\nwarned: no-one is down";
        let colours = painted(text);
        assert!(colours.contains("\x1b[1;31mSTUCK\x1b[0m, \x1b[1;31mDOWN\x1b[0m in"), "{colours:?}");
        assert!(colours.contains("\x1b[2mi-0ffa8f9576b1d87b3\x1b[0m\n"), "{colours:?}");
        let mut plain = colours;
        for code in [RED, YELLOW, GREEN, DIM, END] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, text);
    }
}
