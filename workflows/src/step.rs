//! What is asked and what was seen: the intents and the evidence of steps.

pub mod backup;
pub mod evidence;
pub mod intent;
pub mod wake_hint;
