//! Confirmation before an act that cannot be undone.

use std::io::IsTerminal as _;

use crate::failure::Failure;
use crate::output::Output;

/// Refuses where there is no terminal to ask at.
///
/// # Errors
/// A user's failure that names `--yes`, and `hint` after it.
pub(crate) fn needs_a_terminal(hint: &str) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::user("a deletion is final, and there is no terminal to ask for confirmation")
        .hint(format!("say --yes{hint}")))
}

/// Whether a person is there who can be asked.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks at the terminal whether to go on; where there is none, the command itself is the answer.
///
/// # Errors
/// When the answer is no.
pub(crate) fn agrees(question: &str, output: Output) -> Result<(), Failure> {
    if !can_ask() {
        return Ok(());
    }
    match ask(&format!("{question} [y/N]"), output)?.to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done: the answer was not yes")),
    }
}

/// Asks a question at the terminal and gives the answer, without the white space around it.
///
/// # Errors
/// When the terminal cannot be read.
pub(crate) fn ask(question: &str, output: Output) -> Result<String, Failure> {
    output.say(question);
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::environment(format!("the answer cannot be read: {error}")))?;
    Ok(answer.trim().to_owned())
}
