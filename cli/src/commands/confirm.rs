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
